"""A linear classifier on the frozen encoder's pooled states, inside the stock head so that transformers loads it.

Stock heads read the first token's state through a dense layer and a tanh. Two things make the last linear layer see
the pooled embedding instead: one more encoder layer whose attention is uniform, so that every position holds the mean
of all, and a dense layer that is a small multiple of the identity, where tanh is straight. N rows, H hidden, C classes.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from transformers import AutoConfig

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.model import EncoderModel
from pipeline.errors import Problem, SpecError
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob, TrainingStatus, evaluate, figures_of
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.step import StepContext, TrainingHead
from pipeline.tasks.base import Task
from pipeline.tasks.losses import Emphasis, class_loss_sum

IntArray = npt.NDArray[np.int64]
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
STRENGTHS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # scikit-learn's C on features of length 1: larger regularises less
_NUM_FOLDS = 3
_MAX_ITERATIONS = 500
_MEAN_OVER_OWN = 1_000.0  # how much a position's mean outweighs its own state before they are normalised
_STRAIGHT = 0.02  # tanh of 0.02 x is within 1.4 % of straight up to x = 10


@dataclass(frozen=True)
class LabelledFeatures:
    """Features [N, H] and targets [N, 1] or [N, C]."""

    features_NH: torch.Tensor
    targets_NK: torch.Tensor

    def take(self, rows: torch.Tensor) -> LabelledFeatures:
        """Some of the rows."""
        return LabelledFeatures(self.features_NH[rows], self.targets_NK[rows])


@dataclass(frozen=True)
class LinearModel:
    """Logits are `features @ weight.T + bias`."""

    weight_CH: torch.Tensor
    bias_C: torch.Tensor


def fit_linear_head(job: LoopJob, hooks: LoopHooks) -> Judgements:
    """Fit the head's last layer by L-BFGS; the encoder stays as it is. Every rank comes to the same result.

    Returns:
        The judgements of validation rows; the same on every rank.
    """
    context = job.context
    (head,) = context.heads
    started_s = time.monotonic()
    network, num_labels = context.joined.network(head.name), len(job.learned[head.name].labels)
    if context.joined.head(head.name).pooling == "mean":
        add_mean_layer(network)
    pass_through(network)
    known, num_padded = _features(context, head, job.rank)
    scale = float(known.features_NH.norm(dim=1).mean())
    scaled = LabelledFeatures(known.features_NH / scale, known.targets_NK)
    emphasis = head.emphasis or Emphasis()
    strength = choose_strength(scaled, num_labels, emphasis, context.config.seed)
    model = fit_logistic(scaled, num_labels, strength, emphasis)
    last = find_last_linear(network)
    with torch.no_grad():
        last.weight.copy_(model.weight_CH / scale)
        last.bias.copy_(model.bias_C)
    judgements = evaluate(job)
    if job.rank == 0:
        loss = float(_mean_loss(model, scaled, emphasis))
        rate = int(context.row_lengths.sum()) / (time.monotonic() - started_s)
        padding = 1 - int(context.row_lengths.sum()) / max(num_padded, 1)
        remark = (f"regularisation C {strength:g}",)
        hooks.report(TrainingStatus(1, 1, 0, loss, 0.0, 0.0, rate, padding, figures_of(judgements) or None, remark))
    return judgements


def add_mean_layer(network: Any) -> None:
    """Put one more layer on the encoder, after which every position holds the normalised mean of all positions."""
    layers = network.base_model.encoder.layer
    layer = copy.deepcopy(layers[-1])
    attention = layer.attention
    hidden = attention.output.dense.out_features
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        attention.self.value.weight.copy_(torch.eye(hidden))
        attention.output.dense.weight.copy_(_MEAN_OVER_OWN * torch.eye(hidden))
        attention.output.LayerNorm.weight.fill_(1)
        layer.output.LayerNorm.weight.fill_(1)
    layers.append(layer)
    network.config.num_hidden_layers += 1


def pass_through(network: Any) -> None:
    """Let the head's dense layer hand on what it gets."""
    pooler = getattr(network.base_model, "pooler", None)
    dense = pooler.dense if pooler is not None else network.classifier.dense
    with torch.no_grad():
        dense.weight.copy_(_STRAIGHT * torch.eye(dense.out_features))
        dense.bias.zero_()


def find_last_linear(network: Any) -> torch.nn.Linear:
    """The layer that gives the logits."""
    found = network.classifier if isinstance(network.classifier, torch.nn.Linear) else network.classifier.out_proj
    assert isinstance(found, torch.nn.Linear)
    return found


def choose_strength(known: LabelledFeatures, num_labels: int, emphasis: Emphasis, seed: int) -> float:
    """The regularisation with the lowest loss on held-out parts of the training rows, by cross-validation."""
    order = np.random.default_rng(seed).permutation(len(known.targets_NK))
    classes = _class_numbers(known)[order]
    fold = np.empty(len(order), np.int64)
    fold[order[np.argsort(classes, kind="stable")]] = np.arange(len(order)) % _NUM_FOLDS  # every class is in each
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for number in range(_NUM_FOLDS):
        fitted = known.take(torch.from_numpy(np.flatnonzero(fold != number)))
        held = known.take(torch.from_numpy(np.flatnonzero(fold == number)))
        if not len(fitted.targets_NK) or not len(held.targets_NK):
            continue
        model = None
        for strength in STRENGTHS:
            model = fit_logistic(fitted, num_labels, strength, emphasis, model)
            losses[strength] += float(_mean_loss(model, held, emphasis))
    return min(STRENGTHS, key=lambda strength: losses[strength])


def fit_logistic(
    known: LabelledFeatures,
    num_labels: int,
    strength: float,
    emphasis: Emphasis,
    start: LinearModel | None = None,
) -> LinearModel:
    """Multinomial logistic regression with L2 on the weights, by L-BFGS.

    Args:
        known: What is fitted.
        num_labels: C.
        strength: The loss's sum over rows counts so many times half the squared weights.
        emphasis: Smoothing and class weights.
        start: Where to begin; zeros if None.
    """
    weight = start.weight_CH.clone() if start else known.features_NH.new_zeros(num_labels, known.features_NH.shape[1])
    bias = start.bias_C.clone() if start else known.features_NH.new_zeros(num_labels)
    model = LinearModel(weight.requires_grad_(), bias.requires_grad_())
    optimizer = torch.optim.LBFGS(
        [model.weight_CH, model.bias_C], max_iter=_MAX_ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        penalty = model.weight_CH.square().sum() / (2 * strength * len(known.targets_NK))
        objective = _mean_loss(model, known, emphasis) + penalty
        torch.autograd.backward(objective)
        return float(objective.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearModel(model.weight_CH.detach(), model.bias_C.detach())


def check_linear_head(spec: FinetuneSpec, encoder: str, tasks: dict[str, Task], source: str) -> None:
    """Make sure that a linear head can be fitted and stored in the stock architecture.

    Raises:
        SpecError: another task, family or pooling.
    """
    if spec.training.method != "linear_head":
        return
    problems = []
    unfit = [task.name for task in tasks.values() if task.classes_of != "rows"]
    if unfit or spec.heads:
        found = f"linear_head, for {unfit[0] if unfit else 'several heads'}"
        problems.append(Problem("training.method", found, "one task with one label for each row, or method: finetune"))
    family = AutoConfig.from_pretrained(encoder, trust_remote_code=False).model_type
    if family not in FAMILIES:
        problems.append(Problem("model", f"is of family {family}", f"for linear_head one of: {', '.join(FAMILIES)}"))
    if spec.pooling == "max":
        problems.append(Problem("pooling", "holds 'max'", "mean or cls, for linear_head"))
    if problems:
        raise SpecError(source, tuple(problems))


def _features(context: StepContext, head: TrainingHead, rank: int) -> tuple[LabelledFeatures, int]:
    """What the last layer gets of every training row, from all ranks, in the rows' order; and the tokens computed."""
    joined: JoinedHeads = context.joined
    network, rows = joined.network(head.name), head.data.rows
    own = np.arange(rank, len(rows), context.world_size)
    last = find_last_linear(network)
    place = network if last is network.classifier else network.classifier
    name = "classifier" if place is network else "out_proj"
    setattr(place, name, torch.nn.Identity())
    model = EncoderModel([joined.head(head.name)], context.runtime, context.padding)
    found = model.run(rows.take(own))[0]
    setattr(place, name, last)
    device = context.runtime.device
    features_NH = torch.zeros(len(rows), found.logits.shape[1], device=device)
    features_NH[torch.from_numpy(own)] = torch.from_numpy(found.logits).to(device)
    if context.world_size > 1:
        dist.all_reduce(features_NH)
    targets = head.data.targets.values.reshape(len(rows), -1)
    return LabelledFeatures(features_NH, torch.from_numpy(targets).to(device)), found.num_padded_tokens


def _mean_loss(model: LinearModel, known: LabelledFeatures, emphasis: Emphasis) -> torch.Tensor:
    logits = known.features_NH @ model.weight_CH.T + model.bias_C
    return class_loss_sum(logits, known.targets_NK, emphasis) / len(known.targets_NK)


def _class_numbers(known: LabelledFeatures) -> IntArray:
    targets = known.targets_NK
    classes = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(dim=1)
    return np.asarray(classes.cpu().numpy(), np.int64)
