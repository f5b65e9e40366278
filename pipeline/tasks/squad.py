"""Extractive question answering: the official answer comparison, and the best span over windows. Pure functions.

The comparison is that of the SQuAD evaluation scripts (Rajpurkar et al. 2016, 2018): answers are lower-cased,
stripped of punctuation, articles and extra space; a prediction is held against the best of the gold answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BestSpan:
    """The best answer of one question over all its windows.

    Attributes:
        start, end: Character range in the context; (0, 0) if no window had a token of the context.
        logit: Start plus end logit of the span.
        null_logit: Lowest over windows of the logits at the first token: how unlikely each window finds an answer.
    """

    start: int
    end: int
    logit: float
    null_logit: float

    @property
    def null_margin(self) -> float:
        """How much better no answer is than this one; answered if below the tuned threshold."""
        return self.null_logit - self.logit


@dataclass(frozen=True)
class SpanLimits:
    """How many starts and ends are tried in each window, and how long an answer may be."""

    num_best: int = 20
    max_answer_tokens: int = 30


def best_span(windows: Sequence[tuple[FloatArray, npt.NDArray[np.int32]]], limits: SpanLimits) -> BestSpan:
    """Choose the span with the highest start plus end logit, over all windows of one question.

    Args:
        windows: For each window the logits [tokens, 2] and the character spans [tokens, 2] of its tokens in the
            context, -1 for tokens that are not of the context.
        limits: What is tried.
    """
    best = BestSpan(0, 0, float("-inf"), float("inf"))
    null_logit = min((float(logits[0].sum()) for logits, _ in windows), default=0.0)
    for logits, spans in windows:
        inside = np.flatnonzero(spans[:, 0] >= 0)
        if not len(inside):
            continue
        starts = inside[np.argsort(-logits[inside, 0], kind="stable")[: limits.num_best]]
        ends = inside[np.argsort(-logits[inside, 1], kind="stable")[: limits.num_best]]
        length = ends[None, :] - starts[:, None] + 1
        scores = logits[starts, 0][:, None] + logits[ends, 1][None, :]
        scores = np.where((length >= 1) & (length <= limits.max_answer_tokens), scores, -np.inf)
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        if scores[row, column] > best.logit:
            best = BestSpan(
                int(spans[starts[row], 0]), int(spans[ends[column], 1]), float(scores[row, column]), null_logit
            )
    return BestSpan(best.start, best.end, best.logit, null_logit)


def tune_threshold(margins: FloatArray, f1_if_answered: FloatArray, is_answerable: npt.NDArray[np.bool_]) -> float:
    """The null margin below which answering gives the highest mean F1.

    Args:
        margins: `null_margin` of each question.
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
