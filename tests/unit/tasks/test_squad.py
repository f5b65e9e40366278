from __future__ import annotations

import numpy as np
import pytest

from pipeline.tasks.squad import (
    exact_match,
    normalize_answer,
    token_f1,
    tune_threshold,
)


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
