"""Which rows share a forward pass: pure functions over lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchBudget:
    """What one forward pass may hold: tokens (rows x longest where it is padded), and rows."""

    tokens: int
    rows: int


def padding_factor(lengths: Sequence[int] | IntArray, budget: BatchBudget) -> float:
    """Tokens that padded batches of these rows compute, for each of the rows' own; 1 where there are no rows."""
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    computed = sum(len(batch) * int(sizes[batch[0]]) for batch in plan_batches(sizes, budget))
    return computed / int(sizes.sum()) if len(sizes) else 1.0


def plan_batches(lengths: Sequence[int] | IntArray, budget: BatchBudget, is_padded: bool = True) -> Iterator[IntArray]:
    """Group rows of similar length, longest first, so that little is padded and memory peaks at once.

    Args:
        lengths: Tokens of each row.
        budget: Limits of one batch; a row longer than the token budget forms a batch of its own.
        is_padded: Whether padding counts; without it only the rows' own tokens do.

    Yields:
        Row indices of each batch. Together they are a permutation of all rows, the same for the same lengths.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(np.maximum(sizes[order], 1))
    start = 0
    while start < len(order):
        longest = max(1, int(sizes[order[start]]))
        before = int(ends[start - 1]) if start else 0
        fitting = (
            budget.tokens // longest if is_padded else np.searchsorted(ends, before + budget.tokens, "right") - start
        )
        stop = start + max(1, min(budget.rows, int(fitting)))
        yield order[start:stop]
        start = stop
