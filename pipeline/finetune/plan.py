"""Which rows make which step, and who computes them. Pure functions of (rows' lengths and weights, seed, step).

The order of global batches depends on nothing else, so it is the same on 1 worker or 8, and a run resumed at
step k goes on with exactly the batches it had left.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """The whole run's batches.

    Attributes:
        num_rows: Rows of the training set.
        batch_rows: Rows of a global batch; the last of an epoch may have fewer.
        epochs: Passes over the data.
        min_steps: Lower bound of `num_steps`; small sets get further passes.
        seed: Seed of the order.
        batch_tokens: Instead of `batch_rows`: a batch holds the next rows of the order that fit in so many tokens;
            a row that is longer is a batch by itself.
        lengths: Tokens of each row; needed with `batch_tokens`.
        row_weights: How often each row is drawn, relative to the others; None: once a pass.
    """

    num_rows: int
    batch_rows: int
    epochs: int
    min_steps: int
    seed: int
    batch_tokens: int | None = None
    lengths: IntArray | None = None
    row_weights: FloatArray | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return max(self._first_steps[self.epochs], self.min_steps)

    def steps_of(self, epoch: int) -> int:
        """Steps of one pass; no row is dropped."""
        if self.batch_tokens is None:
            return -(-self.num_rows // self.batch_rows)
        return len(_pass(self, epoch)[1]) - 1

    def epoch_of(self, step: int) -> int:
        """The pass a step belongs to."""
        return bisect_right(self._first_steps, step) - 1

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of its pass, or of the run."""
        firsts = self._first_steps
        return firsts[bisect_left(firsts, step + 1)] == step + 1 or step + 1 == self.num_steps

    def batch(self, step: int) -> IntArray:
        """Row numbers of a step's global batch."""
        epoch = self.epoch_of(step)
        rows, cuts = _pass(self, epoch)
        position = step - self._first_steps[epoch]
        return rows[cuts[position] : cuts[position + 1]]

    @cached_property
    def _first_steps(self) -> list[int]:
        """The first step of every pass there is, and of the one that would follow."""
        firsts = [0]
        while len(firsts) <= self.epochs or firsts[-1] < self.min_steps:
            firsts.append(firsts[-1] + self.steps_of(len(firsts) - 1))
        return firsts


def share_batch(rows: IntArray, lengths: IntArray, num_workers: int) -> list[IntArray]:
    """Split a global batch among workers so that their token counts are nearly equal.

    Longest rows first, each to the worker with the fewest tokens (lowest rank on ties).

    Args:
        rows: Row numbers of the batch.
        lengths: Tokens of each of those rows, in the same order.
        num_workers: How many shares.

    Returns:
        One array per rank, together exactly `rows`; a share is empty when there are fewer rows than workers.
    """
    loads = [0] * num_workers
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    for position in np.argsort(-lengths, kind="stable"):
        rank = loads.index(min(loads))
        shares[rank].append(int(rows[position]))
        loads[rank] += int(lengths[position])
    return [np.asarray(share, np.int64) for share in shares]


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float, schedule: Schedule = "linear") -> float:
    """Multiplies the peak learning rate: linear warm-up from 0, then a fall to 0 at `num_steps`, or none."""
    warmup_steps = max(1, round(num_steps * warmup_fraction)) if warmup_fraction > 0 else 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = max(0, num_steps - step) / max(1, num_steps - warmup_steps)
    if schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return left if schedule == "linear" else 1.0


@lru_cache(maxsize=2)
def _pass(plan: TrainingPlan, epoch: int) -> tuple[IntArray, list[int]]:
    """The rows of a pass in order, and where its batches begin and end."""
    if plan.row_weights is None:
        rows = np.random.default_rng([plan.seed, epoch]).permutation(plan.num_rows)
    else:
        rows = _draw_rows(plan.row_weights, plan.seed, epoch)
    if plan.batch_tokens is None:
        return rows, [*range(0, plan.num_rows, plan.batch_rows), plan.num_rows]
    assert plan.lengths is not None
    return rows, _cut_by_tokens(plan.lengths[rows], plan.batch_tokens)


def _draw_rows(weights: FloatArray, seed: int, epoch: int) -> IntArray:
    """As many draws as there are rows; each row's number of draws is its expected number, rounded up or down."""
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(weights))
    edges = np.cumsum(weights[order])
    edges *= len(weights) / edges[-1]
    edges[-1] = len(weights)
    counts = np.diff(np.floor(edges + draw.random()), prepend=0).astype(np.int64)
    return draw.permutation(np.repeat(order, counts))


def _cut_by_tokens(lengths: IntArray, batch_tokens: int) -> list[int]:
    ends, cuts = np.cumsum(lengths), [0]
    while cuts[-1] < len(lengths):
        start = cuts[-1]
        limit = (ends[start - 1] if start else 0) + batch_tokens
        cuts.append(max(start + 1, int(np.searchsorted(ends, limit, side="right"))))
    return cuts
