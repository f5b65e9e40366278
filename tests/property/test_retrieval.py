"""Search figures on whatever Hypothesis draws: integer vectors, so that equal cosines are exactly equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.retrieval import SearchSet, search_metrics
from tests.unit.tasks.searching import slow_metrics

AXES = np.concatenate([np.eye(4), -np.eye(4), np.zeros((1, 4))]).astype(np.float32)


@st.composite
def searches(draw: st.DrawFn) -> SearchSet:
    numbers = st.integers(0, len(AXES) - 1)
    queries = draw(st.lists(numbers, min_size=1, max_size=5))
    documents = draw(st.lists(numbers, min_size=1, max_size=130))
    graded = st.dictionaries(
        st.integers(0, len(documents) - 1), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]), max_size=6
    )
    relevance = draw(st.lists(graded, min_size=len(queries), max_size=len(queries)))
    return SearchSet(AXES[queries], AXES[documents], relevance)


@given(searches())
def test_figures_are_those_of_a_slow_search(search: SearchSet) -> None:
    expected = slow_metrics(search.queries, search.documents, search.relevance)
    assert search_metrics(search) == pytest.approx(expected, abs=1e-9)


@given(searches())
def test_figures_are_shares_that_grow_with_depth(search: SearchSet) -> None:
    found = search_metrics(search)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["recall@1"] <= found["recall@10"] <= found["recall@100"]
    assert (found["mrr@10"] > 0) == (found["ndcg@10"] > 0)
