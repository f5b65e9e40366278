"""One optimizer step over one rank's share of a global batch, whatever heads its rows belong to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.forward import ModelBatch, lay_out, takes_packs
from pipeline.encoder.heads import HeadCall, JoinedHeads, pair_output
from pipeline.encoder.masking import HidingRules
from pipeline.encoder.pairing import PairingRules
from pipeline.encoder.tokenize import Padding, TokenRows, flat_positions
from pipeline.finetune.hidden import HiddenRows
from pipeline.finetune.parallel import clip_gradients, most_over_ranks, trained_part
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.base import IGNORED, Task
from pipeline.tasks.losses import Emphasis, class_loss_sum

_CPU_MICRO_BATCH_TOKENS = {"padded": 1_024, "packed": 4_096}
_GPU_MICRO_BATCH_TOKENS = 16_384
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingHead:
    """One task of a run: its rows, how much one counts beside another's, what it hides of them, how it pairs them."""

    name: str
    task: Task
    data: TokenData
    weight: float = 1.0
    emphasis: Emphasis | None = None
    hiding: HidingRules | None = None
    pairing: PairingRules | None = None

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The task's loss, with this run's emphasis where it has any."""
        if self.emphasis is None:
            return self.task.loss_sum(logits, targets)
        return class_loss_sum(logits, targets, self.emphasis)


@dataclass(frozen=True)
class StepContext:
    """What every step of a run shares.

    Rows are numbered through all heads, the first head's first. `network` is a JoinedHeads, which may be wrapped in
    DistributedDataParallel or sharded: both average gradients over `world_size` ranks. `epoch` decides which tokens are
    hidden.
    `scaler` is of use in fp16 only.
    """

    network: Any
    heads: tuple[TrainingHead, ...]
    runtime: Runtime
    config: TrainingConfig
    padding: Padding
    world_size: int = 1
    epoch: int = 0
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))

    def in_epoch(self, epoch: int) -> StepContext:
        """The context of an epoch's steps."""
        return replace(self, epoch=epoch) if any(head.hiding for head in self.heads) else self

    @property
    def joined(self) -> JoinedHeads:
        """The whole network without its wrapping; of a sharded one, as it was last gathered."""
        joined: JoinedHeads = getattr(self.network, "module", self.network)
        return joined

    @cached_property
    def row_lengths(self) -> IntArray:
        """Tokens of every row."""
        return np.concatenate([head.data.row_lengths for head in self.heads])

    def lay_out(self, rows: TokenRows, windows: IntArray) -> ModelBatch:
        """Some windows as one batch, in shapes for the precision of the run."""
        with self.runtime.autocast():
            return lay_out(rows, windows, self.joined.encoder, self.padding, self.runtime.device)

    def split(self, rows: IntArray) -> list[IntArray]:
        """Row numbers -> each head's own, counted from 0."""
        starts = np.cumsum([0, *(len(head.data) for head in self.heads)])
        return [rows[(rows >= low) & (rows < high)] - low for low, high in pairwise(starts)]


@dataclass(frozen=True)
class StepResult:
    """This rank's part of a step: losses add up over ranks to the step's; the gradient norm is global.

    Attributes:
        loss: The sum of this rank's terms.
        num_tokens: Of this rank.
        num_padded_tokens: The same, padding included.
        grad_norm: Before clipping.
        is_skipped: The gradients overflowed in fp16: nothing was changed but the scale, which is lower now.
    """

    loss: float
    num_tokens: int
    num_padded_tokens: int
    grad_norm: float
    is_skipped: bool = False


@dataclass(frozen=True)
class _MicroBatch:
    """Windows of one head that go through the network together, and what their outputs add to the loss.

    An idle one adds nothing: it is there for the exchange of gradients.
    """

    head: str
    call: HeadCall
    objective: Callable[[torch.Tensor], torch.Tensor]
    is_idle: bool = False
    pair_objective: Callable[[torch.Tensor], torch.Tensor] | None = None

    def loss(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Its part of the loss, from what the network gave."""
        own = self.objective(outputs[self.head])
        return own if self.pair_objective is None else own + self.pair_objective(outputs[pair_output(self.head)])


def run_step(
    context: StepContext, optimizer: torch.optim.Optimizer, batch: IntArray, share: IntArray, seed: int
) -> StepResult:
    """Forward, backward and update.

    A head's loss is summed over its rows and divided by the global count of its terms, so neither micro-batches nor
    the number of ranks change the gradient; heads count by their rows in the batch, times their weights.

    Args:
        context: The run.
        optimizer: Already set to this step's learning rate.
        batch: Row numbers of the global batch.
        share: Those of this rank; may be empty (the rank still joins the gradient exchange).
        seed: Of this step's dropout on this rank.
    """
    network = context.network
    network.train()
    optimizer.zero_grad(set_to_none=True)
    queues, losses = [], []
    parts = zip(context.heads, context.split(batch), context.split(share), strict=True)
    for number, (head, in_batch, own) in enumerate(parts):
        scale = head.weight * len(in_batch) / len(batch)
        queue, loss = _planner(head)(context, head, _Share(in_batch, own, scale, seed + 1_000_003 * number))
        queues.append(_leveled(context, head, queue, seed))
        losses.append(loss)
    # Every head takes part in the last pass, the one that exchanges gradients: DDP waits for all weights there.
    for micro in chain.from_iterable(queue[:-1] for queue in queues):
        with _no_sync(network):
            losses.append(_backward(context, [micro]))
    losses.append(_backward(context, [queue[-1] for queue in queues]))
    grad_norm, is_skipped = _update(context, optimizer)
    batches = [micro.call.batch for micro in chain.from_iterable(queues) if not micro.is_idle]
    num_tokens, num_padded = sum(own.num_tokens for own in batches), sum(own.num_computed_tokens for own in batches)
    return StepResult(sum(losses), num_tokens, num_padded, grad_norm, is_skipped)


def settle_exchange(context: StepContext) -> None:
    """Make DDP lay out the gradients as it does after its first pass, before there is a step.

    Three ranks or more add up a gradient in an order that depends on where it lies, and a resumed run begins anew: its
    first step would be rounded otherwise than that of a run which was not disturbed.
    """
    network: Any = context.network
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        network.train()  # type: ignore[no-untyped-call]
        _backward(context, [_idle(context, head, 0) for head in context.heads])


def _update(context: StepContext, optimizer: torch.optim.Optimizer) -> tuple[float, bool]:
    """Clip and update; the gradient's norm, and whether it overflowed where a lower scale may help."""
    scaler = context.scaler
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(context.network, context.config.max_grad_norm)
    can_fall = scaler.get_scale() > 1
    scaler.step(optimizer)
    scaler.update()
    return grad_norm, can_fall and not math.isfinite(grad_norm)


def _leveled(context: StepContext, head: TrainingHead, queue: list[_MicroBatch], seed: int) -> list[_MicroBatch]:
    """As many micro-batches as any rank has, where ranks must call the network equally often."""
    num_missing = most_over_ranks(context.network, len(queue)) - len(queue)
    return [_idle(context, head, seed)] * num_missing + queue


def _planner(head: TrainingHead) -> Callable[..., tuple[list[_MicroBatch], float]]:
    if head.hiding is not None:
        return _plan_hidden
    return _plan_comparison if head.task.compares_rows else _plan_rows


@dataclass(frozen=True)
class _Share:
    """One head's part of a step: its rows in the global batch, this rank's of them, and what the loss is times."""

    in_batch: IntArray
    own: IntArray
    scale: float
    seed: int


def _plan_rows(context: StepContext, head: TrainingHead, share: _Share) -> tuple[list[_MicroBatch], float]:
    """Micro-batches of a head whose rows have losses of their own."""
    terms = int(head.data.targets.weights[head.data.windows_of(share.in_batch)].sum())
    scale = share.scale / max(terms, 1)

    def micro_batch(windows: IntArray, number: int) -> _MicroBatch:
        batch = context.lay_out(head.data.rows, windows)

        def objective(logits: torch.Tensor) -> torch.Tensor:
            targets = torch.from_numpy(_batch_targets(head.data, windows, batch, logits.ndim == 3))
            return scale * head.loss_sum(logits, targets.to(logits.device))

        return _MicroBatch(head.name, HeadCall(batch, share.seed + number), objective)

    batches = _micro_batches(context, head.data.rows, head.data.windows_of(share.own))
    queue = [micro_batch(windows, number) for number, windows in enumerate(batches)]
    return queue or [_idle(context, head, share.seed)], 0.0


def _plan_hidden(context: StepContext, head: TrainingHead, share: _Share) -> tuple[list[_MicroBatch], float]:
    """Micro-batches of a head that guesses tokens hidden in this epoch."""
    assert head.hiding is not None
    keys = [(context.epoch, row) for row in share.in_batch.tolist()]
    hidden = HiddenRows.of(head.data, share.in_batch, keys, head.hiding, head.pairing)
    scale, pair_scale = share.scale / max(hidden.num_hidden, 1), share.scale / max(len(share.in_batch), 1)
    own = np.flatnonzero(np.isin(share.in_batch, share.own))

    def micro_batch(chosen: IntArray, number: int) -> _MicroBatch:
        batch = context.lay_out(hidden.rows, chosen)
        places = hidden.places(chosen).to(context.runtime.device)
        truth = torch.from_numpy(hidden.truth(chosen)).unsqueeze(1)

        def objective(logits: torch.Tensor) -> torch.Tensor:
            return scale * head.loss_sum(logits, truth.to(logits.device))

        if hidden.is_next is None:
            return _MicroBatch(head.name, HeadCall(batch, share.seed + number, places), objective)
        pair_truth = torch.from_numpy(hidden.pair_truth(chosen)).unsqueeze(1)

        def pair_objective(logits: torch.Tensor) -> torch.Tensor:
            return pair_scale * head.loss_sum(logits, pair_truth.to(logits.device))

        call = HeadCall(batch, share.seed + number, places, of_pairs=True)
        return _MicroBatch(head.name, call, objective, pair_objective=pair_objective)

    queue = [micro_batch(chosen, number) for number, chosen in enumerate(_micro_batches(context, hidden.rows, own))]
    return queue or [_idle(context, head, share.seed)], 0.0


def _plan_comparison(context: StepContext, head: TrainingHead, share: _Share) -> tuple[list[_MicroBatch], float]:
    """Micro-batches of a head whose loss compares all rows of the global batch.

    Embeddings come first, without gradients, from all ranks; the loss over all of them gives each embedding's
    gradient; then every micro-batch runs once more and takes its own. So the batch may be of any size.
    """
    data, width = head.data, head.data.texts_per_row
    if not len(share.in_batch):
        return [_idle(context, head, share.seed)], 0.0
    windows = data.windows_of(share.own)
    batches = _micro_batches(context, data.rows, windows)
    # Where each of this rank's windows stands among all windows of the global batch.
    order = np.argsort(share.in_batch)
    rows = order[np.searchsorted(share.in_batch, share.own, sorter=order)]
    places = dict(zip(windows.tolist(), (rows[:, None] * width + np.arange(width)).reshape(-1).tolist(), strict=True))
    vectors = _gather_vectors(context, head, batches, places, share)
    targets = torch.from_numpy(data.stack_targets(data.windows_of(share.in_batch)[::width]))
    leaf = vectors.requires_grad_()
    loss = head.loss_sum(leaf.view(len(share.in_batch), width, -1), targets.to(leaf.device))
    total = loss * share.scale / len(share.in_batch)
    torch.autograd.backward(total)
    assert leaf.grad is not None
    pulls = leaf.grad

    def micro_batch(chosen: IntArray, number: int) -> _MicroBatch:
        own = pulls[[places[window] for window in chosen.tolist()]]
        batch = context.lay_out(head.data.rows, chosen)
        return _MicroBatch(head.name, HeadCall(batch, share.seed + number), lambda pooled: (pooled * own).sum())

    queue = [micro_batch(chosen, number) for number, chosen in enumerate(batches)]
    return queue or [_idle(context, head, share.seed)], float(total.detach()) / context.world_size


def _gather_vectors(
    context: StepContext, head: TrainingHead, batches: list[IntArray], places: dict[int, int], share: _Share
) -> torch.Tensor:
    """Embeddings of all windows of the global batch, from all ranks: [N * K, H], without gradients."""
    device, network = context.runtime.device, trained_part(context.network)
    num_windows = len(share.in_batch) * head.data.texts_per_row
    vectors = torch.zeros(num_windows, network.encoder.config.hidden_size, device=device)
    num_idle = most_over_ranks(context.network, len(batches)) - len(batches)
    for number, chosen in enumerate(batches):
        call = HeadCall(context.lay_out(head.data.rows, chosen), share.seed + number)
        with torch.no_grad(), context.runtime.autocast():
            pooled = network({head.name: call})[head.name]
        vectors[[places[window] for window in chosen.tolist()]] = pooled.float()
    for _ in range(num_idle):
        with torch.no_grad(), context.runtime.autocast():
            network({head.name: _idle(context, head, share.seed).call})
    if context.world_size > 1:
        dist.all_reduce(vectors)
    return vectors


def _backward(context: StepContext, micros: list[_MicroBatch]) -> float:
    """One forward and backward pass; returns the losses of rows that have their own."""
    with context.runtime.autocast():
        outputs = context.network({micro.head: micro.call for micro in micros})
    objectives = [micro.loss(outputs) for micro in micros]
    total = sum(objectives[1:], objectives[0]) * context.world_size
    torch.autograd.backward(context.scaler.scale(total))
    compares = {head.name for head in context.heads if head.task.compares_rows}
    own = zip(objectives, micros, strict=True)
    return sum(float(objective.detach()) for objective, micro in own if micro.head not in compares)


def _micro_batches(context: StepContext, rows: TokenRows, windows: IntArray) -> list[IntArray]:
    """Windows in groups of similar length."""
    budget = BatchBudget(_micro_batch_tokens(context), max(len(windows), 1))
    is_padded = not takes_packs(context.joined.encoder)
    return [windows[indices] for indices in plan_batches(rows.lengths[windows], budget, is_padded)]


def _micro_batch_tokens(context: StepContext) -> int:
    """On CPU padded rows go in small groups of similar length; packs need none, and each pass casts all weights."""
    if context.config.micro_batch_tokens != "auto":
        return context.config.micro_batch_tokens
    if context.runtime.device.type != "cpu":
        return _GPU_MICRO_BATCH_TOKENS
    return _CPU_MICRO_BATCH_TOKENS["packed" if takes_packs(context.joined.encoder) else "padded"]


def _idle(context: StepContext, head: TrainingHead, seed: int) -> _MicroBatch:
    """Any window, weighted 0: every rank and head takes part in the exchange of gradients."""

    def nothing(output: torch.Tensor) -> torch.Tensor:
        return 0.0 * output.float().sum()

    batch, of_pairs = context.lay_out(head.data.rows, np.zeros(1, np.int64)), head.pairing is not None
    places = None if head.hiding is None else torch.zeros(1, dtype=torch.int64, device=context.runtime.device)
    call = HeadCall(batch, seed, places, of_pairs)
    return _MicroBatch(head.name, call, nothing, is_idle=True, pair_objective=nothing if of_pairs else None)


def _batch_targets(data: TokenData, windows: IntArray, batch: ModelBatch, over_tokens: bool) -> FloatArray:
    """Targets of some windows: [B, K], or [B, S]."""
    if not over_tokens:
        return data.stack_targets(windows)
    laid_out = np.full(batch.shape, IGNORED, np.float32)
    laid_out.reshape(-1)[batch.cells.cpu().numpy()] = data.targets.values[flat_positions(data.rows, windows)]
    return laid_out


def _no_sync(network: Any) -> Any:
    return network.no_sync() if hasattr(network, "no_sync") else contextlib.nullcontext()
