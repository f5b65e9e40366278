"""Search figures worked out the slow way: every document ranked in float64, equal ones by their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import ndcg_score

Gains = Mapping[int, float]


def ranking(query: np.ndarray, documents: np.ndarray) -> list[int]:
    """Numbers of all documents by falling cosine; equal ones in their own order."""
    lengths = np.linalg.norm(documents.astype(np.float64), axis=1) * np.linalg.norm(query.astype(np.float64))
    cosines = documents.astype(np.float64) @ query.astype(np.float64) / np.maximum(lengths, 1e-12)
    return sorted(range(len(documents)), key=lambda number: (-cosines[number], number))


def slow_metrics(queries: np.ndarray, documents: np.ndarray, relevance: Sequence[Gains]) -> dict[str, float]:
    """What `search_metrics` must give; nDCG by scikit-learn."""
    found: list[dict[str, float]] = []
    for query, gains in zip(queries, relevance, strict=True):
        relevant = {number for number, gain in gains.items() if gain > 0}
        if relevant:
            found.append(_figures(ranking(query, documents), relevant, gains))
    names = ("recall@1", "recall@10", "recall@100", "ndcg@10", "mrr@10")
    return {name: sum(figures[name] for figures in found) / max(len(found), 1) for name in names}


def _figures(order: list[int], relevant: set[int], gains: Gains) -> dict[str, float]:
    figures = {f"recall@{k}": len(relevant & set(order[:k])) / len(relevant) for k in (1, 10, 100)}
    places = [place for place, number in enumerate(order[:10], start=1) if number in relevant]
    figures["mrr@10"] = 1 / places[0] if places else 0.0
    truth = [
        [max(gains.get(number, 0.0), 0.0) for number in range(len(order))] + [0.0]
    ]  # one lonely document is refused
    guess = [[-float(order.index(number)) for number in range(len(order))] + [-float(len(order))]]
    figures["ndcg@10"] = float(ndcg_score(truth, guess, k=10, ignore_ties=True))
    return figures
