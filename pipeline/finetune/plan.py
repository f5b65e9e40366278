"""Which rows make which step, and who computes them. Pure functions of (data size, seed, step).

The order of global batches depends on nothing else, so it is the same on 1 worker or 8, and a run resumed at
step k goes on with exactly the batches it had left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingPlan:
    """The whole run's batches.

    Attributes:
        num_rows: Rows of the training set.
        batch_rows: Rows of a global batch; the last of an epoch may have fewer.
        epochs: Passes over the data.
        min_steps: Lower bound of `num_steps`; small sets get further passes.
        seed: Seed of the order.
    """

    num_rows: int
    batch_rows: int
    epochs: int
    min_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; no row is dropped."""
        return -(-self.num_rows // self.batch_rows)

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return max(self.epochs * self.steps_per_epoch, self.min_steps)

    def epoch_of(self, step: int) -> int:
        """The pass a step belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of its pass, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.num_steps

    def batch(self, step: int) -> IntArray:
        """Row numbers of a step's global batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_rows
        return _permutation(self.num_rows, self.seed, epoch)[start : start + self.batch_rows]


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


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Linear warm-up from 0, then linear decay to 0 at `num_steps`; multiplies the peak learning rate."""
    warmup_steps = max(1, round(num_steps * warmup_fraction)) if warmup_fraction > 0 else 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> IntArray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)
