"""Training whose ranks write down which rows each step takes, below a directory, and wait where they are held."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_POLL_S = 0.05


@dataclass(frozen=True)
class RankStep:
    """What one rank did of a step; attempts are numbered by the time of their start."""

    attempt: float
    step: int
    rank: int
    num_ranks: int
    node: str
    rows: list[int]
    loss: float
    grad_norm: float


@dataclass(frozen=True)
class WholeStep:
    """A step as all ranks of an attempt did it together."""

    attempt: float
    num_ranks: int
    rows: list[int]
    loss: float
    grad_norm: float


def read_record(work: Path) -> list[RankStep]:
    """Everything that any worker of any attempt wrote down."""
    lines = [line for path in record_of(work).glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    return [RankStep(**json.loads(line)) for line in lines if line.endswith("\n")]


def whole_steps(work: Path) -> dict[tuple[int, float], WholeStep]:
    """(step, attempt) -> the step, where every rank of the attempt finished it; a dying attempt's last may be missing.

    No rank may have trained on a row of another one.
    """
    parts: dict[tuple[int, float], list[RankStep]] = {}
    for part in read_record(work):
        parts.setdefault((part.step, part.attempt), []).append(part)
    found = {}
    for key, ranks in parts.items():
        rows = [row for part in ranks for row in part.rows]
        assert len(rows) == len(set(rows)), f"step {key[0]}: rows trained on twice"
        if sorted(part.rank for part in ranks) == list(range(ranks[0].num_ranks)):
            loss, (grad_norm,) = sum(part.loss for part in ranks), {part.grad_norm for part in ranks}
            found[key] = WholeStep(key[1], ranks[0].num_ranks, sorted(rows), loss, grad_norm)
    return found


def record_of(work: Path) -> Path:
    return work / "record"


def hold_at(work: Path, step: int) -> None:
    """Let no rank 0 go beyond the steps before this one; the others wait for it in their exchange of gradients."""
    record_of(work).mkdir(parents=True, exist_ok=True)
    target = record_of(work) / "limit"
    target.with_suffix(".new").write_text(str(step))
    target.with_suffix(".new").rename(target)


def record_steps(work: Path, attempt: float, node: str, replace: Callable[..., None] = setattr) -> None:
    """Have the training loop of this process write down its steps."""
    from pipeline.finetune import loop

    planned, run_step = loop._planned_step, loop.run_step
    at: dict[str, int] = {}

    def planned_step(job: Any, optimizer: Any, step: int) -> Any:
        at.update(step=step, rank=job.rank, num_ranks=job.context.world_size)
        while job.rank == 0 and step >= _limit(work):
            time.sleep(_POLL_S)
        return planned(job, optimizer, step)

    def recorded_step(context: Any, optimizer: Any, batch: np.ndarray, share: np.ndarray, seed: int) -> Any:
        result = run_step(context, optimizer, batch, share, seed)
        figures = {"loss": result.loss, "grad_norm": result.grad_norm}
        line = {"attempt": attempt, **at, "node": node, "rows": share.tolist(), **figures}
        path = record_of(work) / f"{attempt}-{at['rank']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    replace(loop, "_planned_step", planned_step)
    replace(loop, "run_step", recorded_step)


def _limit(work: Path) -> float:
    try:
        return float((record_of(work) / "limit").read_text())
    except FileNotFoundError:
        return float("inf")
