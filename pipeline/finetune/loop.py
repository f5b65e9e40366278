"""The training loop: plain PyTorch over planned steps. Knows of other ranks (torch.distributed), not of Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.encoder.model import EmbeddingOptions, EncoderModel
from pipeline.encoder.tokenize import TokenRows
from pipeline.errors import TrainingError
from pipeline.finetune.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.finetune.data import TokenData
from pipeline.finetune.plan import TrainingPlan, learning_rate_factor, share_batch
from pipeline.finetune.spec import CheckpointConfig
from pipeline.finetune.step import StepContext, StepResult, make_optimizer, run_step, set_learning_rate
from pipeline.tasks.base import Evaluation

_SYNC_EVERY_STEPS = 10


@dataclass(frozen=True)
class TrainingStatus:
    """Where a run stands, for people and for `metrics.jsonl`.

    Losses and rates are over the steps since the status before.
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


@dataclass(frozen=True)
class LoopHooks:
    """What the loop asks of whoever runs it.

    Attributes:
        restore: A local directory holding the newest checkpoint, or None.
        save: Called on every rank when state is to be kept; gets a function that writes a checkpoint into a
            directory, to be called on rank 0.
        report: Called on rank 0 with the status, every few steps.
    """

    restore: Path | None
    save: Callable[[Callable[[Path], None]], None]
    report: Callable[[TrainingStatus], None]


@dataclass(frozen=True)
class LoopJob:
    """One rank's view of a run."""

    context: StepContext
    plan: TrainingPlan
    validation: TokenData | None
    labels: tuple[str, ...]
    checkpoint: CheckpointConfig
    fingerprint: str
    rank: int


def train(job: LoopJob, hooks: LoopHooks) -> Evaluation | None:
    """Run every step that is left.

    Returns:
        The evaluation after the last epoch, or None without validation rows; the same on every rank.

    Raises:
        TrainingError: the loss is not finite; on every rank at the same step.
    """
    context, plan = job.context, job.plan
    network = _unwrapped(context.network)
    optimizer = make_optimizer(network, network.base_model_prefix, context.config)
    first_step = 0
    if hooks.restore is not None:
        first_step = load_checkpoint(hooks.restore, network, optimizer, job.fingerprint).next_step
    window = _Window(job, hooks)
    evaluation = evaluate(job) if first_step == plan.num_steps else None
    for step in range(first_step, plan.num_steps):
        factor = learning_rate_factor(step, plan.num_steps, context.config.warmup_fraction)
        set_learning_rate(optimizer, factor)
        torch.manual_seed(hash((context.config.seed, step, job.rank)) & 0x7FFF_FFFF)
        window.add(_planned_step(job, optimizer, step))
        at_epoch_end = plan.ends_epoch(step)
        if at_epoch_end or (step + 1) % _SYNC_EVERY_STEPS == 0:
            if at_epoch_end:
                evaluation = evaluate(job)
            window.close(step, factor, evaluation if at_epoch_end else None)
            if window.wants_checkpoint(at_epoch_end):
                progress = Progress(step + 1, job.fingerprint)
                hooks.save(lambda target, at=progress: save_checkpoint(target, network, optimizer, at))  # type: ignore[misc]
    return evaluation


def evaluate(job: LoopJob) -> Evaluation | None:
    """Score the validation rows, shared among ranks, each exactly once; every rank gets the same figures."""
    data, context = job.validation, job.context
    if data is None or len(data) == 0:
        return None
    network = _unwrapped(context.network)
    mine = np.arange(job.rank, len(data), context.world_size)
    model = EncoderModel(network, context.runtime, EmbeddingOptions("cls", normalize=False), context.pad_id)
    with model:
        outputs = model.run(_select(data.rows, mine))
    gathered: list[Any] = [None] * context.world_size
    if context.world_size > 1:
        dist.all_gather_object(gathered, outputs.logits)
    else:
        gathered = [outputs.logits]
    logits = np.zeros((len(data), len(job.labels)), np.float32)
    for rank, part in enumerate(gathered):
        if len(part):
            logits[rank :: context.world_size] = part
    return context.task.evaluate(logits, data.targets, job.labels)


class _Window:
    """Figures since the last status, and when the last checkpoint was made."""

    def __init__(self, job: LoopJob, hooks: LoopHooks) -> None:
        self._job, self._hooks = job, hooks
        self._results: list[StepResult] = []
        self._started_s = self._saved_s = time.monotonic()

    def add(self, result: StepResult) -> None:
        self._results.append(result)

    def close(self, step: int, factor: float, evaluation: Evaluation | None) -> None:
        """Sum over ranks, stop on a loss that is not finite, report on rank 0, start anew."""
        job = self._job
        sums = torch.tensor(
            [
                [result.loss_sum, result.num_rows, result.num_tokens, result.num_padded_tokens]
                for result in self._results
            ],
            dtype=torch.float64,
        ).sum(dim=0)
        if job.context.world_size > 1:
            sums = _all_reduce(sums, job.context.runtime.device)
        loss_sum, num_rows, num_tokens, num_padded = sums.tolist()
        loss = loss_sum / max(num_rows, 1)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} within steps {step + 1 - len(self._results)}-{step}",
                "lower training.learning_rate, or set compute.precision: fp32",
            )
        now_s = time.monotonic()
        status = TrainingStatus(
            step=step + 1,
            num_steps=job.plan.num_steps,
            epoch=job.plan.epoch_of(step),
            loss=loss,
            learning_rate=job.context.config.learning_rate * factor,
            grad_norm=self._results[-1].grad_norm,
            tokens_per_s=num_tokens / max(now_s - self._started_s, 1e-9),
            padding_share=1 - num_tokens / max(num_padded, 1),
            validation=evaluation.metrics if evaluation else None,
        )
        if job.rank == 0:
            self._hooks.report(status)
        self._results, self._started_s = [], time.monotonic()

    def wants_checkpoint(self, at_epoch_end: bool) -> bool:
        """Rank 0's clock decides for all; the answer is the same on every rank."""
        due = at_epoch_end or time.monotonic() - self._saved_s >= self._job.checkpoint.every_s
        if self._job.context.world_size > 1:
            flag = torch.tensor([float(due)], dtype=torch.float64)
            flag = flag if self._job.rank == 0 else torch.zeros_like(flag)
            due = bool(_all_reduce(flag, self._job.context.runtime.device).item())
        if due:
            self._saved_s = time.monotonic()
        return due


def _planned_step(job: LoopJob, optimizer: torch.optim.Optimizer, step: int) -> StepResult:
    data = job.context.data
    batch = job.plan.batch(step)
    shares = share_batch(batch, data.rows.lengths[batch], job.context.world_size)
    num_valid = int((data.targets[batch] >= 0).sum())
    return run_step(job.context, optimizer, shares[job.rank], max(num_valid, 1))


def _all_reduce(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = values.to(device)
    dist.all_reduce(moved)
    return moved.cpu()


def _unwrapped(network: Any) -> Any:
    return getattr(network, "module", network)


def _select(rows: TokenRows, indices: np.ndarray[Any, np.dtype[np.int64]]) -> TokenRows:
    pieces = [rows.row(int(index)) for index in indices]
    ids = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(rows.lengths[indices])]).astype(np.int64)
    return TokenRows(ids, offsets, rows.truncated[indices])


def status_record(status: TrainingStatus) -> dict[str, Any]:
    """A status as a line of `metrics.jsonl`."""
    return {key: value for key, value in asdict(status).items() if value is not None}
