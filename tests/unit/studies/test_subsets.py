from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.studies.subsets import nested_order, subset_rows, take_fraction

LABELS = ["a"] * 600 + ["b"] * 300 + ["c"] * 97 + ["d"] * 3


def counts(fraction: float, seed: int = 1) -> Counter[str]:
    return Counter(LABELS[row] for row in take_fraction(LABELS, fraction, seed))


def test_the_order_holds_every_row_once() -> None:
    assert sorted(nested_order(LABELS, 5)) == list(range(1_000))


def test_a_smaller_fraction_is_inside_a_larger_one() -> None:
    small, large = take_fraction(LABELS, 0.05, 3), take_fraction(LABELS, 0.3, 3)
    assert (len(small), len(large)) == (50, 300)
    assert set(small) < set(large)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.7])
def test_classes_keep_their_shares(fraction: float) -> None:
    found = counts(fraction)
    for label, total in Counter(LABELS).items():
        assert abs(found[label] - fraction * total) <= 2, label


@pytest.mark.parametrize("seed", range(5))
def test_every_class_has_a_row_where_there_is_room(seed: int) -> None:
    assert set(counts(0.004, seed)) == {"a", "b", "c", "d"}


def test_without_room_the_most_frequent_classes_come_first() -> None:
    assert counts(0.002) == {"a": 1, "b": 1}


def test_a_seed_draws_other_rows_and_the_same_seed_the_same() -> None:
    first = take_fraction(LABELS, 0.1, 1)
    np.testing.assert_array_equal(first, take_fraction(LABELS, 0.1, 1))
    assert len(set(first) & set(take_fraction(LABELS, 0.1, 2))) < 40


def test_a_fraction_is_rounded_to_rows() -> None:
    assert [subset_rows(fraction, 90) for fraction in (0.01, 0.05, 0.5, 1.0)] == [1, 4, 45, 90]
