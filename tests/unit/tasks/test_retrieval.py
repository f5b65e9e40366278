from __future__ import annotations

import numpy as np
import pytest

from pipeline.tasks.retrieval import SearchSet, search_metrics
from tests.unit.tasks.searching import Gains, slow_metrics


def vectors(draw: np.random.Generator, count: int, ties: bool) -> np.ndarray:
    """Directions at random; or only along the axes, where most cosines are equal and exact."""
    if not ties:
        return draw.normal(size=(count, 8)).astype(np.float32)
    return (np.eye(3)[draw.integers(0, 3, count)] * draw.choice([-2, 1, 4], (count, 1))).astype(np.float32)


def gains(draw: np.random.Generator, num_documents: int) -> Gains:
    """None, some or many relevant documents, graded, with a few that are marked as not relevant."""
    chosen = draw.choice(num_documents, size=min(int(draw.integers(0, 12)), num_documents), replace=False)
    return {int(number): float(draw.choice([-1, 0, 1, 2, 3])) for number in chosen}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_documents", [1, 2, 9, 10, 11, 99, 100, 101, 300])
def test_figures_are_those_of_a_slow_search(num_documents: int, ties: bool) -> None:
    draw = np.random.default_rng(num_documents)
    queries, documents = vectors(draw, 30, ties), vectors(draw, num_documents, ties)
    relevance = [gains(draw, num_documents) for _ in queries]
    relevance[0] = {0: 1.0}
    expected = slow_metrics(queries, documents, relevance)
    assert search_metrics(SearchSet(queries, documents, relevance)) == pytest.approx(expected, abs=1e-9)


def test_more_queries_than_a_block_are_all_counted() -> None:
    draw = np.random.default_rng(0)
    queries, documents = vectors(draw, 700, ties=False), vectors(draw, 40, ties=False)
    relevance = [{int(draw.integers(0, 40)): 1.0} for _ in queries]
    found = search_metrics(SearchSet(queries, documents, relevance))
    assert found == pytest.approx(slow_metrics(queries, documents, relevance), abs=1e-9)


def test_of_equal_documents_the_first_is_found_first_however_many_there_are() -> None:
    documents = np.ones((500, 4), np.float32)
    for number in (0, 9, 10, 99, 100, 499):
        found = search_metrics(SearchSet(np.ones((1, 4), np.float32), documents, [{number: 1.0}]))
        expected = {f"recall@{k}": float(number < k) for k in (1, 10, 100)}
        assert {name: found[name] for name in expected} == expected, number
        assert found["mrr@10"] == (1 / (number + 1) if number < 10 else 0.0)


def test_the_length_of_a_vector_does_not_count() -> None:
    draw = np.random.default_rng(1)
    queries, documents = vectors(draw, 20, ties=False), vectors(draw, 50, ties=False)
    relevance = [{number: 1.0} for number in range(20)]
    stretched = SearchSet(
        queries * draw.uniform(0.1, 50, (20, 1)).astype(np.float32),
        documents * draw.uniform(0.1, 50, (50, 1)).astype(np.float32),
        relevance,
    )
    assert search_metrics(stretched) == search_metrics(SearchSet(queries, documents, relevance))


def test_queries_without_relevant_documents_are_left_out() -> None:
    documents = np.eye(3, dtype=np.float32)
    one = SearchSet(documents[:1], documents, [{0: 1.0}])
    padded = SearchSet(documents[[1, 0, 2]], documents, [{}, {0: 1.0}, {2: 0.0, 1: -1.0}])
    assert search_metrics(padded) == search_metrics(one)
    assert set(search_metrics(one).values()) == {1.0}


@pytest.mark.parametrize("num_documents", [0, 3])
def test_a_search_with_nothing_to_find_scores_nothing(num_documents: int) -> None:
    documents = np.ones((num_documents, 4), np.float32)
    found = search_metrics(SearchSet(np.ones((2, 4), np.float32), documents, [{}, {}]))
    assert found == dict.fromkeys(("recall@1", "recall@10", "recall@100", "ndcg@10", "mrr@10"), 0.0)


def test_relevant_documents_beyond_the_hundredth_are_missed_by_recall() -> None:
    angles = np.linspace(0, 1, 150)
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    relevance = [{5: 1.0, 99: 1.0, 100: 1.0, 149: 1.0}]
    found = search_metrics(SearchSet(documents[:1], documents, relevance))
    assert (found["recall@1"], found["recall@10"], found["recall@100"]) == (0, 0.25, 0.5)
