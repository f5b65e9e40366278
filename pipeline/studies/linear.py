"""Linear classifiers of a learning curve: TF-IDF, and logistic regression on any features. Needs scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

_STRENGTHS = (1.0, 10.0, 100.0)  # C: larger is less regularised
_DEFAULT_STRENGTH = 10.0
_NUM_FOLDS = 3
_MAX_ITERATIONS = 1_000


def predict_tfidf(train: tuple[Sequence[str], Sequence[str]], test_texts: Sequence[str], seed: int) -> list[str]:
    """Logistic regression on TF-IDF of words and pairs of neighbouring words (lower case, sublinear counts).

    Args:
        train: Texts and labels.
        test_texts: What to label.
        seed: Of the folds.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    texts, labels = train
    return predict_logistic(vectorizer.fit_transform(texts), labels, vectorizer.transform(test_texts), seed)


def predict_logistic(features: Any, labels: Sequence[str], test_features: Any, seed: int) -> list[str]:
    """L-BFGS logistic regression; C by cross-validation where every class has a row for each fold.

    Args:
        features: [R, F], dense or sparse.
        labels: One per row [R]; at least two different ones.
        test_features: [N, F].
        seed: Of the folds.

    Returns:
        N labels.
    """
    truth = np.asarray(labels)
    model = LogisticRegression(C=_DEFAULT_STRENGTH, max_iter=_MAX_ITERATIONS)
    if np.unique(truth, return_counts=True)[1].min() >= _NUM_FOLDS:
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
        search = GridSearchCV(model, {"C": _STRENGTHS}, cv=folds, scoring="accuracy", error_score="raise")
        model = search.fit(features, truth).best_estimator_
    else:
        model.fit(features, truth)
    return [str(label) for label in model.predict(test_features)]
