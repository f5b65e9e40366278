from __future__ import annotations

import numpy as np
import pytest

from pipeline.tasks.squad import (
    BestSpan,
    SpanLimits,
    best_span,
    exact_match,
    normalize_answer,
    token_f1,
    tune_threshold,
)

LIMITS = SpanLimits()


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat", "cat"),
        ("an apple, a day!", "apple day"),
        ("Theatre another than", "theatre another than"),
        ("don't", "dont"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),
        ("the", ""),
        ("a-b", "ab"),
        ("ÉCOLE «la»", "école «la»"),
        (" \t\n", ""),
        ("The-end of A", "theend of"),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel Tower!"], 1, 1),
        ("Eiffel", ["the Eiffel Tower"], 0, 2 / 3),
        ("in the big Eiffel Tower", ["Eiffel Tower"], 0, 2 * 0.5 * 1 / 1.5),
        ("Paris", ["London", "Paris"], 1, 1),
        ("big red dog", ["big cat", "red dog"], 0, 0.8),
        ("dog dog", ["dog"], 0, 2 * 0.5 * 1 / 1.5),
        ("dog", ["dog dog"], 0, 2 * 1 * 0.5 / 1.5),
        ("cat", ["dog"], 0, 0),
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("", ["the", "cat"], 0, 0),
        ("", ["the"], 1, 1),
    ],
)
def test_exact_match_and_f1_by_hand(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, golds) == exact
    assert token_f1(prediction, golds) == pytest.approx(f1)


def window(starts: list[float], ends: list[float], first_character: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A window: the first token is not of the context, each other token is two characters and a space."""
    spans = [(-1, -1)] + [(first_character + 3 * i, first_character + 3 * i + 2) for i in range(len(starts) - 1)]
    return np.array([starts, ends], np.float32).T, np.array(spans, np.int32)


def test_the_best_sum_of_start_and_end_wins() -> None:
    best = best_span([window([1, 0, 5, 0], [2, 0, 0, 4])], LIMITS)
    assert best == BestSpan(start=3, end=8, logit=9, null_logit=3)
    assert best.null_margin == -6


def test_an_end_before_its_start_is_refused() -> None:
    best = best_span([window([0, 0, 0, 9], [0, 9, 0, 1])], LIMITS)
    assert (best.start, best.end, best.logit) == (6, 8, 10)
    best = best_span([window([0, 0, 8, 9], [0, 9, 4, 1])], LIMITS)
    assert (best.start, best.end, best.logit) == (3, 5, 12)


def test_an_answer_that_is_too_long_is_refused() -> None:
    tokens = window([0, 9, 0, 0, 3], [0, 0, 2, 0, 9])
    assert (best_span([tokens], SpanLimits(max_answer_tokens=4)).start, best_span([tokens], LIMITS).end) == (0, 11)
    short = best_span([tokens], SpanLimits(max_answer_tokens=3))
    assert (short.start, short.end, short.logit) == (9, 11, 12)


def test_only_the_best_starts_and_ends_are_tried() -> None:
    tokens = window([0, 1, 9, 8], [0, 9, 1, 1])
    assert best_span([tokens], SpanLimits(num_best=1)).logit == float("-inf")
    assert best_span([tokens], SpanLimits(num_best=3)).logit == 10


def test_tokens_outside_the_context_are_never_chosen() -> None:
    best = best_span([window([99, 1, 0], [99, 0, 1])], LIMITS)
    assert (best.start, best.end, best.logit, best.null_logit) == (0, 5, 2, 198)


def test_of_two_windows_the_better_span_and_the_lower_null_count() -> None:
    first, second = window([4, 1, 0], [4, 2, 0]), window([1, 0, 5], [1, 0, 2], first_character=60)
    best = best_span([first, second], LIMITS)
    assert best == BestSpan(start=63, end=65, logit=7, null_logit=2)
    assert best_span([second, first], LIMITS) == best


def test_a_span_never_reaches_over_two_windows() -> None:
    first, second = window([0, 9, 0], [0, 0, 1]), window([0, 1, 0], [0, 0, 9], first_character=6)
    best = best_span([first, second], LIMITS)
    assert (best.start, best.end, best.logit) == (0, 5, 10)


def test_without_a_context_token_there_is_no_span() -> None:
    best = best_span([(np.ones((2, 2), np.float32), np.full((2, 2), -1, np.int32))], LIMITS)
    assert (best.start, best.end, best.logit, best.null_margin) == (0, 0, float("-inf"), float("inf"))
    assert best_span([], LIMITS).end == 0


def mean_f1(threshold: float, margins: np.ndarray, f1: np.ndarray, answerable: np.ndarray) -> float:
    answered = margins < threshold
    return float(np.where(answered, np.where(answerable, f1, 0.0), ~answerable).mean())


@pytest.mark.parametrize("seed", range(30))
def test_the_threshold_is_as_good_as_any(seed: int) -> None:
    draw = np.random.default_rng(seed)
    num_rows = int(draw.integers(1, 25))
    answerable = draw.random(num_rows) < draw.choice([0, 0.5, 1])
    margins = draw.normal(size=num_rows).astype(np.float32)
    margins = np.round(margins) if seed % 2 else margins  # ties
    f1 = np.where(answerable, np.round(draw.random(num_rows), 1), 0).astype(np.float32)
    every = np.sort(margins.astype(np.float64))
    tried = [-100.0, 100.0, *every, *((every[1:] + every[:-1]) / 2)]
    best = max(mean_f1(threshold, margins, f1, answerable) for threshold in tried)
    threshold = tune_threshold(margins, f1, answerable)
    assert mean_f1(threshold, margins, f1, answerable) == pytest.approx(best)


def test_no_rows_leave_the_threshold_at_zero() -> None:
    assert tune_threshold(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_)) == 0
