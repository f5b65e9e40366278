"""Extractive question answering: the official answer comparison, and when to decline. Pure functions.

The comparison is that of the SQuAD evaluation scripts (Rajpurkar et al. 2016, 2018): answers are lower-cased,
stripped of punctuation, articles and extra space; a prediction is held against the best of the gold answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
FloatArray = npt.NDArray[np.float32]


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, gold_answers: Sequence[str]) -> float:
    """1.0 if the prediction equals any gold answer after normalisation; no gold answers means none is right."""
    golds = _gold_or_none(gold_answers)
    return float(any(normalize_answer(prediction) == normalize_answer(gold) for gold in golds))


def token_f1(prediction: str, gold_answers: Sequence[str]) -> float:
    """Best F1 of the prediction's words against a gold answer's; empty against empty is 1."""
    return max(
        _f1(normalize_answer(prediction).split(), normalize_answer(gold).split())
        for gold in _gold_or_none(gold_answers)
    )


def _gold_or_none(gold_answers: Sequence[str]) -> list[str]:
    """Gold answers that are not empty after normalisation; the empty answer if there are none."""
    return [gold for gold in gold_answers if normalize_answer(gold)] or [""]


def _f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    if not predicted or not gold:
        return float(not predicted and not gold)
    num_common = sum((Counter(predicted) & Counter(gold)).values())
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(predicted), num_common / len(gold)
    return 2 * precision * recall / (precision + recall)


def tune_threshold(margins: FloatArray, f1_if_answered: FloatArray, is_answerable: npt.NDArray[np.bool_]) -> float:
    """The null margin below which answering gives the highest mean F1.

    Args:
        margins: `null_margins` of the questions.
        f1_if_answered: F1 of its best span.
        is_answerable: Whether it has a gold answer; declining an unanswerable one counts 1, an answerable one 0.
    """
    order = np.argsort(margins, kind="stable")
    gain = np.where(is_answerable, f1_if_answered, 0.0) - np.where(is_answerable, 0.0, 1.0)
    total = np.concatenate([[0.0], np.cumsum(gain[order])])
    sorted_margins = margins[order]
    # only cuts between different margins can be expressed as a threshold
    usable = (
        np.concatenate([[True], sorted_margins[1:] > sorted_margins[:-1], [True]]) if len(margins) else np.array([True])
    )
    best = int(np.where(usable, total, -np.inf).argmax())
    if best == 0:
        return float(sorted_margins[0]) if len(margins) else 0.0
    if best == len(margins):
        return float(sorted_margins[-1]) + 1.0
    return float((sorted_margins[best - 1] + sorted_margins[best]) / 2)
