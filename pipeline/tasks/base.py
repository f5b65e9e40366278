"""The protocol every task fits, and the small types it speaks in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    import torch  # for types only: planning a run must not wait for torch to load

FloatArray = npt.NDArray[np.float32]
TargetArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Counts of (true label, predicted label).

    Attributes:
        labels: Class names.
        counts: int64 [true, predicted].
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """A task's figures on some rows."""

    num_rows: int
    metrics: dict[str, float]
    confusion: Confusion | None = None


class Task(Protocol):
    """What differs between tasks. Stateless: labels and options come from the bundle or the spec."""

    name: str
    inputs: tuple[str, ...]
    target: str
    main_metric: str
    head_class: str

    def find_labels(self, targets: pa.ChunkedArray) -> tuple[str, ...]:
        """Class names in training targets, in the order of the logits."""
        ...

    def encode_targets(self, targets: pa.ChunkedArray, labels: Sequence[str]) -> TargetArray:
        """Targets as numbers [rows]; -100 where a label is null or unknown."""
        ...

    def loss_sum(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Loss summed (not averaged) over valid targets: the caller divides by the global count."""
        ...

    def output_fields(self) -> list[pa.Field]:
        """The columns `decode` makes."""
        ...

    def decode(self, logits: FloatArray, labels: Sequence[str]) -> list[pa.Array]:
        """Logits [rows, classes] -> one array for each of `output_fields`."""
        ...

    def evaluate(self, logits: FloatArray, targets: TargetArray, labels: Sequence[str]) -> Evaluation:
        """Metrics of logits [rows, classes] against valid targets [rows]."""
        ...
