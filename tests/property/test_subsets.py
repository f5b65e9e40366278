"""Subsets of a training set, whatever its labels."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.studies.subsets import nested_order, take_fraction

LABELS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=120)
FRACTIONS = st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted)


@given(LABELS, st.integers(0, 2**32 - 1))
def test_the_order_is_a_permutation_and_the_same_each_time(labels: list[str], seed: int) -> None:
    order = nested_order(labels, seed).tolist()
    assert sorted(order) == list(range(len(labels)))
    assert order == nested_order(labels, seed).tolist()


@given(LABELS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_fractions_are_nested(labels: list[str], fractions: list[float], seed: int) -> None:
    small, large = (take_fraction(labels, fraction, seed).tolist() for fraction in fractions)
    assert large[: len(small)] == small


@given(LABELS, st.integers(0, 2**32 - 1))
def test_every_beginning_is_stratified(labels: list[str], seed: int) -> None:
    totals, found = Counter(labels), Counter[str]()
    for taken, row in enumerate(nested_order(labels, seed), start=1):
        found[labels[row]] += 1
        assert len(found) == min(taken, len(totals)), "a row of each class comes before a second one of any"
        for label, total in totals.items():
            share = taken * total / len(labels)
            assert abs(found[label] - share) <= len(totals) + 1, (taken, label)
