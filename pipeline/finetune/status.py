"""Where a run stands, for people and for `metrics.jsonl`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingStatus:
    """Where a run stands, for people and for `metrics.jsonl`.

    Losses and rates are over the steps since the status before; `remarks` are for people to read.
    """

    step: int
    num_steps: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_s: float
    padding_share: float
    validation: dict[str, float] | None = None
    remarks: tuple[str, ...] | None = None
    num_workers: int = 1


def status_record(status: TrainingStatus) -> dict[str, Any]:
    """A status as a line of `metrics.jsonl`."""
    return {key: value for key, value in asdict(status).items() if value is not None}
