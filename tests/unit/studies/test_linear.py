from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

import pipeline.studies.linear as linear
from tests.tiny import make_rows


def words(num_rows: int, seed: int) -> tuple[list[str], list[str]]:
    rows = make_rows(num_rows, seed)
    return rows["text"].to_pylist(), rows["label"].to_pylist()


def test_tfidf_learns_the_words_that_decide() -> None:
    texts, truth = words(60, 2)
    found = linear.predict_tfidf(words(120, 1), texts, seed=1)
    assert np.mean(np.array(found) == np.array(truth)) > 0.95  # chance is a third


def test_a_bigram_can_decide() -> None:
    texts = ["not good at all", "good not at all"] * 10
    labels = ["down", "up"] * 10
    assert linear.predict_tfidf((texts, labels), texts[:2], seed=1) == ["down", "up"]


@pytest.mark.parametrize(("num_rows", "searches"), [(4, 0), (6, 1)])
def test_strength_is_searched_only_where_each_class_fills_the_folds(
    num_rows: int, searches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    fit = GridSearchCV.fit
    monkeypatch.setattr(GridSearchCV, "fit", lambda self, *data: asked.append(1) or fit(self, *data))
    features = np.array([[0.0], [1.0]] * (num_rows // 2))
    assert linear.predict_logistic(features, ["a", "b"] * (num_rows // 2), np.array([[-1.0], [2.0]]), 1) == ["a", "b"]
    assert len(asked) == searches
