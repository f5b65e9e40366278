"""A linear classifier on the frozen encoder's pooled states, inside the stock head so that transformers loads it.

Stock heads read the first token's state through a dense layer and a tanh. Two things make the last linear layer see
the pooled embedding instead: one more encoder layer whose attention is uniform, so that every position holds the mean
of all, and a dense layer that is a small multiple of the identity, where tanh is straight.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig

from pipeline.errors import Problem, SpecError
from pipeline.finetune.fitted import fit_last_layer
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob, evaluate, figures_of
from pipeline.finetune.spec import FinetuneSpec, TrainingConfig
from pipeline.finetune.status import TrainingStatus
from pipeline.tasks.base import Task

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
_MEAN_OVER_OWN = 1_000.0  # how much a position's mean outweighs its own state before they are normalised
_FEW_ROWS_A_LABEL = 16
_STRAIGHT = 0.02  # tanh of 0.02 x is within 1.4 % of straight up to x = 10


def fit_linear_head(job: LoopJob, hooks: LoopHooks) -> Judgements:
    """Fit the head's last layer by L-BFGS; the encoder stays as it is. Every rank comes to the same result.

    Returns:
        The judgements of validation rows; the same on every rank.
    """
    context = job.context
    (head,) = context.heads
    started_s = time.monotonic()
    network = context.joined.network(head.name)
    if context.joined.head(head.name).pooling == "mean":
        add_mean_layer(network)
    pass_through(network)
    fit = fit_last_layer(context, head, job.rank)
    judgements = evaluate(job)
    if job.rank == 0:
        rate = int(context.row_lengths.sum()) / (time.monotonic() - started_s)
        padding = 1 - int(context.row_lengths.sum()) / max(fit.num_padded_tokens, 1)
        remark = (f"regularisation C {fit.strength:g}",)
        hooks.report(TrainingStatus(1, 1, 0, fit.loss, 0.0, 0.0, rate, padding, figures_of(judgements) or None, remark))
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


def suggest_linear_head(
    spec: FinetuneSpec, find_encoder: Callable[[], str], task: Task, num_rows: int, num_labels: int
) -> list[str]:
    """A remark where rows are so few that the last layer alone may do as well as the whole network."""
    if spec.training.method == "linear_head" or num_rows >= _FEW_ROWS_A_LABEL * num_labels:
        return []
    instead = spec.model_copy(update={"training": TrainingConfig(method="linear_head")})
    try:
        check_linear_head(instead, find_encoder(), {"": task}, "")
    except SpecError:
        return []
    fitted = "with so few training.method: linear_head, which takes seconds, is often as good"
    return [f"{num_rows:,} rows of {num_labels:,} labels: {fitted}"]


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
