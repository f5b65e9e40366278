"""The training loop: plain PyTorch over planned steps. Knows of other ranks (torch.distributed), not of Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist

from pipeline.encoder.masking import HidingRules
from pipeline.encoder.model import EncoderModel
from pipeline.encoder.tokenize import TokenRows
from pipeline.errors import InterruptedRunError, TrainingError
from pipeline.finetune.best import BestKeeper
from pipeline.finetune.checkpoint import Progress, Weights, load_best, load_checkpoint, save_checkpoint
from pipeline.finetune.hidden import Guesser, HiddenRows, validation_keys
from pipeline.finetune.optimizer import make_optimizer, set_learning_rate
from pipeline.finetune.parallel import (
    all_reduce,
    gather_moments,
    gather_weights,
    scatter_weights,
    trained_part,
    weights_are_finite,
)
from pipeline.finetune.plan import TrainingPlan, learning_rate_factor, share_batch
from pipeline.finetune.spec import CheckpointConfig
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.step import StepContext, StepResult, TrainingHead, run_step, settle_exchange
from pipeline.finetune.token_cache import TokenData
from pipeline.finetune.vocabulary import note_step
from pipeline.finetune.watch import NormWatch
from pipeline.tasks.base import Evaluation, Examples, Learned

_SYNC_EVERY_STEPS = 10
_MAX_NAMED = 256
_ASK_EVERY_S = 2.0
_LOOK_EVERY_S = 1.0  # at the clock for that, where a step takes longer than a tenth of it
_CALMER = "lower training.learning_rate, or set compute.precision: fp32"
IntArray = npt.NDArray[np.int64]


class Wish(IntEnum):
    """What those outside want of a run: nothing, a checkpoint now, or a checkpoint and the end."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


@dataclass(frozen=True)
class LoopHooks:
    """What the loop asks of whoever runs it.

    Attributes:
        restore: A local directory holding the newest checkpoint, or None.
        save: Called on every rank when state is to be kept; gets a function that writes a checkpoint into a
            directory, to be called on rank 0.
        report: Called on rank 0 with the status, every few steps.
        wish: Called on every rank the same number of times, every few seconds: what those outside want by now.
    """

    restore: Path | None
    save: Callable[[Callable[[Path], None]], None]
    report: Callable[[TrainingStatus], None]
    wish: Callable[[], Wish] = lambda: Wish.GO_ON


@dataclass(frozen=True)
class ValidationRows:
    """This rank's share of one head's validation rows: texts and targets, and the tokens of each model input."""

    examples: Examples
    inputs: tuple[TokenRows, ...]
    targets: pa.ChunkedArray


@dataclass(frozen=True)
class Judgement:
    """Figures on the validation rows, what was learned with thresholds tuned on them, and this rank's rows, judged."""

    evaluation: Evaluation
    learned: Learned
    own: pa.Table | None = None


Judgements = dict[str, Judgement]
"""Head -> its judgement; heads without validation rows have none."""


def _number_rows(rows: IntArray) -> list[str]:
    return [f"training rows {', '.join(map(str, sorted(rows.tolist())))}"]


@dataclass(frozen=True)
class LoopJob:
    """One rank's view of a run; `learned` and `validation` by head.

    `locate` says where training rows came from; `unfitted` are heads to fit before the first step.
    """

    context: StepContext
    plan: TrainingPlan
    validation: Mapping[str, ValidationRows]
    learned: Mapping[str, Learned]
    checkpoint: CheckpointConfig
    fingerprint: str
    rank: int
    locate: Callable[[IntArray], list[str]] = _number_rows
    unfitted: tuple[str, ...] = ()


def train(job: LoopJob, hooks: LoopHooks, remarks: tuple[str, ...] = ()) -> Judgements:
    """Run every step that is left.

    Args:
        job: This rank's part.
        hooks: Who runs it.
        remarks: For people, with the first status.

    Returns:
        The judgements of the weights that the network is left with, the last or the best; the same on every rank.

    Raises:
        TrainingError: numbers are not finite, or none is there to keep the best by; on every rank at the same step.
        InterruptedRunError: it was wished; on every rank at the same step, after a checkpoint.
    """
    context, plan = job.context, job.plan
    network, recipe = context.joined, context.config
    optimizer = make_optimizer(trained_part(context.network), recipe)
    keeper = BestKeeper(recipe, {head.name: head.task for head in context.heads}, network)
    first_step = 0 if hooks.restore is None else _go_on(job, optimizer, keeper, hooks.restore)
    settle_exchange(context)
    window = _Window(job, hooks, remarks)
    judgements: Judgements | None = None
    for step in range(first_step, plan.num_steps):
        if keeper.is_over:
            break
        factor = learning_rate_factor(step, plan.num_steps, recipe.warmup_fraction, recipe.schedule)
        set_learning_rate(optimizer, factor)
        result = _planned_step(job, optimizer, step)
        if not result.is_skipped:
            note_step(trained_part(context.network), optimizer)
        window.add(result)
        at_epoch_end, at_evaluation = plan.ends_epoch(step), _is_evaluated(job, step)
        is_due = at_epoch_end or at_evaluation or (step + 1) % _SYNC_EVERY_STEPS == 0
        wish = window.ask_between() if not is_due else Wish.GO_ON
        if is_due or wish is not Wish.GO_ON:
            window.check(step)  # first: weights that are no numbers cannot be judged
            judgements = _evaluate_after(job, step) if at_evaluation else None
            if judgements:
                keeper.note(step + 1, {head: found.evaluation.metrics for head, found in judgements.items()})
            window.close(step, factor, judgements or {}, _remarks(keeper))
            wish = window.ask_wish() if is_due else wish
            if window.wants_checkpoint(at_epoch_end or keeper.is_over or wish is not Wish.GO_ON):
                progress = Progress(step + 1, job.fingerprint, keeper.standing, context.scaler.state_dict())
                hooks.save(_writer(job, optimizer, progress, keeper.weights))
            if wish is Wish.STOP and step + 1 < plan.num_steps:
                raise InterruptedRunError(
                    f"stopped after step {step + 1} of {plan.num_steps}; a checkpoint was saved",
                    "run the same command again: it goes on with the next step",
                )
    gather_weights(context.network)
    if keeper.put_back() or judgements is None:
        judgements = evaluate(job)
    return judgements


def _go_on(job: LoopJob, optimizer: torch.optim.Optimizer, keeper: BestKeeper, checkpoint: Path) -> int:
    """Put back what a checkpoint holds; returns the next step."""
    context = job.context
    progress = load_checkpoint(checkpoint, context.joined, optimizer, job.fingerprint)
    scatter_weights(context.network)
    keeper.resume(progress.standing, load_best(checkpoint))
    if progress.scaler and context.scaler.is_enabled():
        context.scaler.load_state_dict(dict(progress.scaler))
    return progress.next_step


def _writer(
    job: LoopJob, optimizer: torch.optim.Optimizer, progress: Progress, best: Weights
) -> Callable[[Path], None]:
    """What writes a checkpoint on rank 0; what it writes is checked and gathered here, on every rank."""
    _check_weights(job, progress.next_step - 1)
    gather_weights(job.context.network)
    moments = gather_moments(optimizer, is_kept=job.rank == 0)
    return lambda target: save_checkpoint(target, job.context.joined, moments, progress, best)


def _is_evaluated(job: LoopJob, step: int) -> bool:
    """Whether validation rows are judged after a step; always after the last."""
    every = job.context.config.evaluate_every_steps
    if every is None:
        return job.plan.ends_epoch(step)
    return (step + 1) % every == 0 or step + 1 == job.plan.num_steps


def _remarks(keeper: BestKeeper) -> tuple[str, ...]:
    if not keeper.is_over:
        return ()
    standing = keeper.standing
    return (f"stopped early: {standing.num_worse} evaluations no better than after step {standing.best_step}",)


def _evaluate_after(job: LoopJob, step: int) -> Judgements:
    _check_weights(job, step)
    gather_weights(job.context.network)
    return evaluate(job)


def evaluate(job: LoopJob) -> Judgements:
    """Judge the validation rows, shared among ranks, each exactly once; every rank gets the same figures.

    Thresholds are tuned on these very rows.
    """
    return {
        head.name: _judge(job, head, job.validation[head.name])
        for head in job.context.heads
        if head.name in job.validation
    }


def _judge(job: LoopJob, head: TrainingHead, rows: ValidationRows) -> Judgement:
    context, task, learned = job.context, head.task, job.learned[head.name]
    if head.hiding is not None:
        mine = _judge_hidden(job, head, rows, head.hiding)
        _check_outputs(job, pc.sum(pc.invert(pc.is_finite(mine["loss"]))).as_py() or 0)
    else:
        model = EncoderModel([context.joined.head(head.name, with_embedding=False)], context.runtime, context.padding)
        outputs = [model.run(tokens)[0] for tokens in rows.inputs]
        _check_outputs(job, sum(int((~output.finite).sum()) for output in outputs))
        mine = task.judge(outputs, rows.examples, rows.targets, learned)
    gathered: list[Any] = [mine] * context.world_size
    if context.world_size > 1:
        dist.all_gather_object(gathered, mine)
    judged = pa.concat_tables(gathered)
    tuned = task.tune(judged, learned)
    return Judgement(task.evaluate(judged, tuned), tuned, mine)


def _judge_hidden(job: LoopJob, head: TrainingHead, rows: ValidationRows, rules: HidingRules) -> pa.Table:
    """This rank's rows, with the same tokens hidden in every evaluation."""
    context, learned, (tokens,) = job.context, job.learned[head.name], rows.inputs
    data = TokenData(tokens, head.task.window_targets(rows.targets, rows.examples, learned))
    keys = validation_keys(tokens, job.rank, context.world_size)
    hidden = HiddenRows.of(data, np.arange(len(tokens)), keys, rules, head.pairing)
    guesser = Guesser(head.task, context.joined, head.name, context.runtime, context.padding)
    return guesser.judge(hidden, rows.examples, learned)


class _Window:
    """Figures since the last status, and when the last checkpoint was made."""

    def __init__(self, job: LoopJob, hooks: LoopHooks, remarks: tuple[str, ...]) -> None:
        self._job, self._hooks, self._remarks = job, hooks, remarks
        self._results: list[StepResult] = []
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._look_every_steps = _SYNC_EVERY_STEPS
        self._norms, self._norm = NormWatch(), 0.0
        self._started_s = self._stepped_s = self._saved_s = self._asked_s = time.monotonic()

    def add(self, result: StepResult) -> None:
        self._results.append(result)

    def check(self, step: int) -> None:
        """Sum over ranks, and stop on a loss that is not finite."""
        job, self._stepped_s = self._job, time.monotonic()
        results, first_step = self._results, step + 1 - len(self._results)
        step_s = (self._stepped_s - self._started_s) / len(results) if job.rank == 0 else 0.0  # one clock for all
        by_step = torch.tensor(
            [[result.loss, result.num_tokens, result.num_padded_tokens, step_s] for result in results],
            dtype=torch.float64,
        )
        if job.context.world_size > 1:
            by_step = all_reduce(by_step, job.context.runtime.device)
        for number, (result, step_loss) in enumerate(zip(results, by_step[:, 0].tolist(), strict=True), first_step):
            _check_finite(job, number, step_loss, 0.0 if result.is_skipped else result.grad_norm)
            remark = self._note_norm(number, result)
            self._remarks += (remark,) if remark else ()
        self._sums = by_step[:, :3].sum(dim=0)
        self._look_every_steps = max(int(_LOOK_EVERY_S / max(by_step[0, 3].item(), 1e-9)), 1)

    def _note_norm(self, step: int, result: StepResult) -> str | None:
        if result.is_skipped:
            return f"fp16 gradients overflowed at step {step}: it was skipped, the loss is scaled less"
        self._norm = result.grad_norm
        return self._norms.add(step, result.grad_norm)

    def close(self, step: int, factor: float, judgements: Judgements, remarks: tuple[str, ...]) -> None:
        """Report on rank 0 what was checked, and start anew."""
        job, results = self._job, self._results
        loss_sum, num_tokens, num_padded = self._sums.tolist()
        loss = loss_sum / len(results)
        status = TrainingStatus(
            step=step + 1,
            num_steps=job.plan.num_steps,
            epoch=job.plan.epoch_of(step),
            loss=loss,
            learning_rate=job.context.config.learning_rate * factor,
            grad_norm=self._norm,
            tokens_per_s=num_tokens / max(self._stepped_s - self._started_s, 1e-9),  # evaluations are not in it
            padding_share=1 - num_tokens / max(num_padded, 1),
            validation=figures_of(judgements) or None,
            remarks=(*remarks, *self._remarks) or None,
            num_workers=job.context.world_size,
        )
        if job.rank == 0:
            self._hooks.report(status)
        self._results, self._remarks, self._started_s = [], (), time.monotonic()

    def wants_checkpoint(self, at_epoch_end: bool) -> bool:
        """Rank 0's clock decides for all; the answer is the same on every rank."""
        due = at_epoch_end or self._is_rank_0s(time.monotonic() - self._saved_s >= self._job.checkpoint.every_s)
        if due:
            self._saved_s = time.monotonic()
        return due

    def ask_between(self) -> Wish:
        """Ask those outside before the next status too, where steps are slow by rank 0's clock."""
        return Wish.GO_ON if len(self._results) % self._look_every_steps else self.ask_wish()

    def ask_wish(self) -> Wish:
        """Ask those outside, every few seconds by rank 0's clock; the same on every rank."""
        if not self._is_rank_0s(time.monotonic() - self._asked_s >= _ASK_EVERY_S):
            return Wish.GO_ON
        wish = self._hooks.wish()
        self._asked_s = time.monotonic()
        return wish

    def _is_rank_0s(self, answer: bool) -> bool:
        """Rank 0's answer, on every rank."""
        return bool(_sum_over_ranks(self._job, answer and self._job.rank == 0))


def _planned_step(job: LoopJob, optimizer: torch.optim.Optimizer, step: int) -> StepResult:
    batch = job.plan.batch(step)
    shares = share_batch(batch, job.context.row_lengths[batch], job.context.world_size)
    seed = hash((job.context.config.seed, step, job.rank)) & 0x7FFF_FFFF
    return run_step(job.context.in_epoch(job.plan.epoch_of(step)), optimizer, batch, shares[job.rank], seed)


def _check_finite(job: LoopJob, step: int, loss: float, grad_norm: float) -> None:
    """Stop on numbers that every later step would inherit; every rank comes to the same end."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    rows = job.plan.batch(step)
    shown = "\n".join(f"- {place}" for place in job.locate(rows[:_MAX_NAMED]))
    more = f"\n- and {len(rows) - _MAX_NAMED} more" if len(rows) > _MAX_NAMED else ""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {grad_norm}"
    raise TrainingError(
        f"{what} at step {step}, whose batch holds:\n{shown}{more}",
        f"look at those rows; {_CALMER}",
    )


def _check_weights(job: LoopJob, step: int) -> None:
    """Stop before weights that are no numbers are judged or kept: no loss was computed from them yet."""
    if _sum_over_ranks(job, not weights_are_finite(trained_part(job.context.network))):
        raise TrainingError(f"the update of step {step} left weights that are not finite", _CALMER)


def _check_outputs(job: LoopJob, num_bad: int) -> None:
    num_bad = _sum_over_ranks(job, num_bad)
    if num_bad:
        raise TrainingError(f"the model's outputs for {num_bad} validation rows are not finite", _CALMER)


def _sum_over_ranks(job: LoopJob, count: int) -> int:
    if job.context.world_size == 1:
        return count
    return int(all_reduce(torch.tensor([float(count)], dtype=torch.float64), job.context.runtime.device).item())


def figures_of(judgements: Judgements) -> dict[str, float]:
    """All heads' metrics, named `head.metric` where there are several heads."""
    return {
        f"{head}.{name}" if head else name: value
        for head, judgement in judgements.items()
        for name, value in judgement.evaluation.metrics.items()
    }
