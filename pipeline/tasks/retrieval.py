"""How well a search by embedding finds what is relevant: recall, nDCG and MRR over exact cosine ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.tasks.numbers import unit_vectors

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
RECALL_AT = (1, 10, 100)
RANKED_AT = 10
_QUERY_BLOCK = 256


@dataclass(frozen=True)
class SearchSet:
    """Queries, documents, and what is relevant to what.

    Attributes:
        queries: [Q, H].
        documents: [D, H].
        relevance: For each query, document number -> gain; gains of 0 or less are not relevant.
    """

    queries: FloatArray
    documents: FloatArray
    relevance: Sequence[Mapping[int, float]]

    @cached_property
    def asked(self) -> list[int]:
        """Numbers of the queries that have something relevant."""
        return [number for number, gains in enumerate(self.relevance) if any(gain > 0 for gain in gains.values())]


SEARCH_METRICS = (*(f"recall@{k}" for k in RECALL_AT), "ndcg@10", "mrr@10")


def search_metrics(found: SearchSet) -> dict[str, float]:
    """Mean over queries that have something relevant.

    `recall@k` is the share of a query's relevant documents among its first k; `ndcg@10` has linear gains and
    log2 discounts, as trec_eval; `mrr@10` is 1 / rank of the first relevant document, 0 beyond rank 10.
    """
    depth = min(max(RECALL_AT), len(found.documents))
    documents = unit_vectors(found.documents)
    totals: dict[str, float] = dict.fromkeys(SEARCH_METRICS, 0.0)
    for start in range(0, len(found.asked), _QUERY_BLOCK):
        block = found.asked[start : start + _QUERY_BLOCK]
        ranked = _best(unit_vectors(found.queries[block]) @ documents.T, depth)
        for number, order in zip(block, ranked, strict=True):
            for name, value in _judge_query(order, found.relevance[number]).items():
                totals[name] += value
    return {name: total / max(len(found.asked), 1) for name, total in totals.items()}


def _judge_query(order: IntArray, relevance: Mapping[int, float]) -> dict[str, float]:
    gains = np.array([max(relevance.get(int(document), 0.0), 0.0) for document in order])
    num_relevant = sum(gain > 0 for gain in relevance.values())
    figures = {f"recall@{k}": float((gains[:k] > 0).sum() / num_relevant) for k in RECALL_AT}
    ideal = np.sort(np.array([gain for gain in relevance.values() if gain > 0]))[::-1]
    figures["ndcg@10"] = _discounted(gains) / _discounted(ideal)
    hits = np.flatnonzero(gains[:RANKED_AT] > 0)
    figures["mrr@10"] = float(1 / (hits[0] + 1)) if len(hits) else 0.0
    return figures


def _discounted(gains: npt.NDArray[np.float64]) -> float:
    gains = gains[:RANKED_AT]
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())


def _best(scores: FloatArray, depth: int) -> IntArray:
    """Numbers of the `depth` highest scores of each row, highest first; of equal ones the lower number."""
    lowest = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1]
    best = np.zeros((len(scores), depth), np.int64)
    for row, (values, limit) in enumerate(zip(scores, lowest, strict=True)):
        at_least = np.flatnonzero(values >= limit)  # more than `depth` where the last place is shared
        best[row] = at_least[np.argsort(-values[at_least], kind="stable")][:depth]
    return best
