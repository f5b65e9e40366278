"""A head's last layer, fitted to the frozen encoder's states by L-BFGS: in place of training, or before it.

Training from a fitted layer keeps what a pretrained encoder already knows, where a random one first disturbs it
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", https://arxiv.org/abs/2202.10054).
N targets (rows, or tokens that have a label), H what the last layer gets, C its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from pipeline.encoder.model import EncoderModel
from pipeline.encoder.tokenize import flat_positions
from pipeline.errors import Problem, SpecError
from pipeline.finetune.classes import weigh_rows
from pipeline.finetune.last_layer import LastLayer
from pipeline.finetune.mean_layer import is_over_rows, reads_mean
from pipeline.finetune.parallel import scatter_weights
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.step import StepContext, TrainingHead
from pipeline.tasks.base import IGNORED, Task

IntArray = npt.NDArray[np.int64]
LossSum = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [N, C] and targets -> their losses' sum."""

STRENGTHS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # scikit-learn's C on features of length 1: larger regularises less
_FITTED_CLASSES = frozenset(["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
_MOST_TARGETS = 20_000  # more hardly move a linear layer, and take time before the first step
_MOST_TOKENS = 1 << 18  # a CPU takes minutes for so many, while other ranks wait
_ENOUGH_ROWS, _ENOUGH_OF_A_CLASS, _ENOUGH_TOKENS = 2_048, 32, 10_000  # for a start; docs/decisions.md
_MAX_START_STRENGTH = 100.0  # a layer that fits every row leaves training no loss to learn from
_MOST_PRODUCTS = 1e9  # of targets, inputs and outputs: half a minute or so on two cores
_NUM_FOLDS = 3
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class KnownTargets:
    """Features [N, H] and targets [N, K]: a class number, or a number for each output."""

    features_NH: torch.Tensor
    targets_NK: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets_NK)

    def take(self, chosen: torch.Tensor) -> KnownTargets:
        """Some of them."""
        return KnownTargets(self.features_NH[chosen], self.targets_NK[chosen])


@dataclass(frozen=True)
class LinearModel:
    """Logits are `features @ weight.T + bias`; some families' heads have no bias."""

    weight_CH: torch.Tensor
    bias_C: torch.Tensor | None = None

    @classmethod
    def zeros(cls, linear: torch.nn.Linear) -> LinearModel:
        """Where a fit of such a layer begins that nothing is known of."""
        return cls(torch.zeros_like(linear.weight), None if linear.bias is None else torch.zeros_like(linear.bias))

    @property
    def parts(self) -> list[torch.Tensor]:
        """Weight, and bias if there is one."""
        return [self.weight_CH, *([] if self.bias_C is None else [self.bias_C])]


@dataclass(frozen=True)
class Effort:
    """How far a fit goes.

    Attributes:
        max_targets: Rows are drawn until they have so many targets, at least one row; None: all rows.
        max_tokens: The same, of tokens.
        max_strength: The weakest regularisation that is tried.
        num_folds: So many of the three parts of cross-validation are held out, one after the other.
        max_iterations: Of L-BFGS.
        draws: How often each row is drawn, where some are drawn more often than others.
    """

    max_targets: int | None = None
    max_tokens: int | None = None
    max_strength: float = STRENGTHS[-1]
    num_folds: int = _NUM_FOLDS
    max_iterations: int = _MAX_ITERATIONS
    draws: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Fit:
    """What a fit came to: its regularisation, its mean loss, on how many targets, and tokens computed for them."""

    strength: float
    loss: float
    num_targets: int
    num_padded_tokens: int


def is_to_fit(task: Task, network: Any, new_weights: frozenset[str], start: str) -> bool:
    """Whether a head's last layer is to be fitted before training.

    Args:
        task: The head's.
        network: The head's, as it was loaded.
        new_weights: Names of those of its weights that the checkpoint did not have.
        start: `fitted`, `random`, or `auto`: fitted if it is new and gives labels. One number a row (similarity) is
            learned as fast from random weights, and better in the one case tried (docs/decisions.md).
    """
    if start == "random" or not can_be_fitted(task):
        return False
    last = LastLayer.of(network)
    return start == "fitted" or (last.is_among(new_weights, network) and last.linear.out_features > 1)


def can_be_fitted(task: Task) -> bool:
    """Whether a task's rows, or tokens, have a loss each that is convex in their logits."""
    return task.head_class in _FITTED_CLASSES


def check_head_start(recipe: TrainingConfig, tasks: Iterable[Task], source: str) -> None:
    """Make sure that heads can be fitted, where a recipe asks for it.

    Raises:
        SpecError: one cannot.
    """
    unfit = [task.name for task in tasks if not can_be_fitted(task)]
    if recipe.head_start == "fitted" and unfit:
        raise SpecError(source, (Problem("training.head_start", f"fitted, for {unfit[0]}", "auto or random"),))


def fit_new_heads(context: StepContext, names: Sequence[str], rank: int) -> tuple[str, ...]:
    """Fit the last layers of some heads before training; rank 0 does, so that the result is that of one rank.

    Returns:
        What to tell people of it, on rank 0.
    """
    remarks = []
    for head in (head for head in context.heads if head.name in names):
        if rank == 0:
            fit = fit_last_layer(replace(context, world_size=1), head, 0, _as_a_start(context, head))
            of_head = f" of {head.name}" if head.name else ""
            is_mean = is_over_rows(head.task) and reads_mean(context.joined.network(head.name).config)
            mean = ", reads the mean of all tokens" if is_mean else ""
            remarks.append(f"head{of_head} fitted to {fit.num_targets:,} targets, loss {fit.loss:.3f}{mean}")
        if context.world_size > 1:
            for weight in LastLayer.of(context.joined.network(head.name)).linear.parameters():
                dist.broadcast(weight.detach(), 0)
    if names:
        scatter_weights(context.network)
    return tuple(remarks)


def fit_last_layer(context: StepContext, head: TrainingHead, rank: int, effort: Effort = Effort()) -> Fit:
    """Fit a head's last layer to its training rows; the rest of the network stays as it is.

    Every rank comes to the same weights. Rows whose states are no numbers are left to training, which names them.

    Args:
        context: The run.
        head: One whose rows, or tokens, have a loss each.
        rank: This rank's number.
        effort: How far it goes.
    """
    last = LastLayer.of(context.joined.network(head.name))
    known, num_padded = _collect(context, head, rank, last, _draw(head, effort, context.config.seed))
    if not len(known):
        return Fit(0.0, math.nan, 0, num_padded)
    scale = max(float(known.features_NH.norm(dim=1).mean()), 1e-12)
    scaled = KnownTargets(known.features_NH / scale, known.targets_NK)
    start = LinearModel.zeros(last.linear)
    strength = choose_strength(scaled, start, head.loss_sum, context.config.seed, effort)
    model = fit_linear(scaled, start, strength, head.loss_sum, effort.max_iterations)
    with torch.no_grad():
        last.linear.weight.copy_(model.weight_CH / scale)
        if model.bias_C is not None:
            last.linear.bias.copy_(model.bias_C)
    return Fit(strength, float(_mean_loss(model, scaled, head.loss_sum)), len(known), num_padded)


def choose_strength(
    known: KnownTargets, start: LinearModel, loss_sum: LossSum, seed: int, effort: Effort = Effort()
) -> float:
    """The regularisation with the lowest loss on held-out parts of the targets, by cross-validation from `start`."""
    order = np.random.default_rng(seed).permutation(len(known))
    kinds = _kinds(known)[order]
    fold = np.empty(len(order), np.int64)
    fold[order[np.argsort(kinds, kind="stable")]] = np.arange(len(order)) % _NUM_FOLDS  # every class is in each
    halves = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(effort.num_folds)]
    parts = [
        (known.take(torch.from_numpy(fitted)), known.take(torch.from_numpy(held)))
        for fitted, held in halves
        if len(fitted) and len(held)
    ]
    models = [start] * len(parts)
    best, best_loss = STRENGTHS[0], math.inf
    for strength in (strength for strength in STRENGTHS if strength <= effort.max_strength):
        loss = 0.0
        for number, (fitted, held) in enumerate(parts):
            models[number] = fit_linear(fitted, models[number], strength, loss_sum, effort.max_iterations)
            loss += float(_mean_loss(models[number], held, loss_sum))
        if loss >= best_loss:
            break  # from its least on it only rises
        best, best_loss = strength, loss
    return best


def fit_linear(
    known: KnownTargets,
    start: LinearModel,
    strength: float,
    loss_sum: LossSum,
    max_iterations: int = _MAX_ITERATIONS,
) -> LinearModel:
    """The linear layer with the least loss and L2 on its weights, by L-BFGS.

    Args:
        known: What is fitted.
        start: Where to begin; it is left as it is.
        strength: The loss's sum counts so many times half the squared weights.
        loss_sum: The loss, convex in the logits.
        max_iterations: Of L-BFGS.
    """
    model = LinearModel(
        start.weight_CH.clone().requires_grad_(),
        None if start.bias_C is None else start.bias_C.clone().requires_grad_(),
    )
    optimizer = torch.optim.LBFGS(
        model.parts, max_iter=max_iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        penalty = model.weight_CH.square().sum() / (2 * strength * len(known))
        objective = _mean_loss(model, known, loss_sum) + penalty
        torch.autograd.backward(objective)
        return float(objective.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearModel(*(part.detach() for part in model.parts))


def _as_a_start(context: StepContext, head: TrainingHead) -> Effort:
    """How far a fit goes that training goes on from: the first step should not wait long for it."""
    network, sampling = context.joined.network(head.name), context.config.sampling
    linear = LastLayer.of(network).linear
    draws = None if sampling is None else weigh_rows(head.data, list(network.config.id2label.values()), sampling)
    of_classes = max(_ENOUGH_ROWS, _ENOUGH_OF_A_CLASS * linear.out_features)
    wanted = _ENOUGH_TOKENS if head.task.classes_of == "tokens" else of_classes
    most = min(wanted, _MOST_TARGETS, _MOST_PRODUCTS / (linear.in_features * linear.out_features))
    return Effort(int(most), _MOST_TOKENS, _MAX_START_STRENGTH, num_folds=1, max_iterations=100, draws=draws)


def _draw(head: TrainingHead, effort: Effort, seed: int) -> IntArray:
    """The windows to look at, in the order of the data."""
    rng, count = np.random.default_rng(seed), len(head.data.rows)
    draws = effort.draws
    order = rng.permutation(count) if draws is None else rng.choice(count, count, p=draws / draws.sum())
    limits = ((head.data.targets.weights, effort.max_targets), (head.data.rows.lengths, effort.max_tokens))
    fitting = [np.searchsorted(np.cumsum(sizes[order]), most, side="right") for sizes, most in limits if most]
    return np.sort(order[: max(int(min(fitting, default=len(order))), 1)])


def _collect(
    context: StepContext, head: TrainingHead, rank: int, last: LastLayer, windows: IntArray
) -> tuple[KnownTargets, int]:
    """What the last layer gets, from all ranks, in the data's order, and the targets; and the tokens computed."""
    data = head.data
    own = np.arange(len(windows)) % context.world_size == rank
    last.replace_by(torch.nn.Identity())
    try:
        model = EncoderModel([context.joined.head(head.name, with_embedding=False)], context.runtime, context.padding)
        (found,) = model.run(data.rows.take(windows[own]))
    finally:
        last.replace_by(last.linear)
    is_over_tokens = head.task.classes_of == "tokens"
    sizes = data.rows.lengths[windows] if is_over_tokens else np.ones(len(windows), np.int64)
    device = context.runtime.device
    features_NH = torch.zeros(int(sizes.sum()), last.linear.in_features, device=device)
    if own.any():
        features_NH[torch.from_numpy(np.repeat(own, sizes))] = torch.from_numpy(found.logits).to(device)
    if context.world_size > 1:
        dist.all_reduce(features_NH)
    if is_over_tokens:
        targets = data.targets.values[flat_positions(data.rows, windows)][:, None]
    else:
        targets = data.stack_targets(windows)
    targets_NK = torch.from_numpy(targets).to(device)
    is_known = (targets_NK[:, 0] != IGNORED) & features_NH.isfinite().all(dim=1)
    return KnownTargets(features_NH, targets_NK).take(is_known), found.num_padded_tokens


def _mean_loss(model: LinearModel, known: KnownTargets, loss_sum: LossSum) -> torch.Tensor:
    logits = known.features_NH @ model.weight_CH.T
    if model.bias_C is not None:
        logits = logits + model.bias_C
    return loss_sum(logits, known.targets_NK) / len(known)


def _kinds(known: KnownTargets) -> npt.NDArray[np.float32]:
    """By what targets are spread over the folds: their class, the class of most weight, or their number."""
    targets = known.targets_NK
    kinds = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(dim=1)
    return np.asarray(kinds.cpu().numpy(), np.float32)
