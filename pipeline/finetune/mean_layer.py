"""A stock head over rows that reads the mean over all tokens, in a network that transformers loads as it is.

Stock heads read the first token's state through a dense layer and an activation. For the mean, the encoder gets one
more layer whose attention is uniform, so that every position holds the mean of all, and the dense layer starts as the
identity, or a share of it where the activation is straight. The layer only takes the mean and is never trained; the
configuration says that it is there. Heads that can read the mean by themselves (ModernBERT's) are told to.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig

from pipeline.encoder.layers import FAMILIES, find_layers, has_mean_layer, layer_list, mark_mean_layer
from pipeline.errors import Problem, SpecError
from pipeline.finetune.last_layer import LastLayer
from pipeline.finetune.spec import FinetuneSpec
from pipeline.tasks.base import Task

_OWN_POOLING = "classifier_pooling"  # the configuration of a head that pools by itself
_MEAN_OVER_OWN = 1_000.0  # how much a position's mean outweighs its own state before they are normalised
_STRAIGHT = 0.02  # of the identity, where it is not trained: tanh of 0.02 x is within 1.4 % of straight up to x = 10
_TRAINED = 1.0  # a step changes smaller weights too much: docs/decisions.md
_FEW_ROWS_A_LABEL = 512  # docs/decisions.md


def settle_reading(
    spec: FinetuneSpec, task: Task, network: Any, new_weights: frozenset[str], num_rows: int
) -> frozenset[str]:
    """Let a network's head read what a recipe wants it to.

    Args:
        spec: The run's.
        task: The head's.
        network: The head's, as it was loaded; changed in place.
        new_weights: Names of those of its weights that the checkpoint did not have.
        num_rows: Training rows.

    Returns:
        `new_weights`, and the whole head's where it reads something else than it was trained for.
    """
    config, read = network.config, reads_mean(network.config)
    is_new = is_over_rows(task) and LastLayer.of(network).is_among(new_weights, network)
    wanted = _wants_mean(spec, task, config, is_new, num_rows)
    if wanted != read:
        if hasattr(config, _OWN_POOLING):
            setattr(config, _OWN_POOLING, "mean" if wanted else "cls")
        elif wanted:
            _add_layer(network)
        else:
            _drop_layer(network)
        inner = {id(weight) for weight in network.base_model.parameters()}
        new_weights |= {name for name, weight in network.named_parameters() if id(weight) not in inner}
    if has_mean_layer(config):
        layer_list(network.base_model)[-1].requires_grad_(False)
        find_layers(network.base_model)[-1].weights_dropout.p = 0.0  # the mean is of all tokens
    if spec.training.method == "linear_head":
        _pass_through(network, _STRAIGHT)
    elif wanted and not read and has_mean_layer(config):
        _pass_through(network, _TRAINED)
    return new_weights


def is_in_mean_layer(name: str, config: Any) -> bool:
    """Whether a module, by its name within an encoder, is a part of such a layer."""
    return has_mean_layer(config) and f".layer.{config.num_hidden_layers - 1}." in name


def reads_mean(config: Any) -> bool:
    """Whether a network's head over rows reads the mean over all tokens."""
    return has_mean_layer(config) or getattr(config, _OWN_POOLING, "cls") == "mean"


def check_reading(spec: FinetuneSpec, encoder: str, tasks: Mapping[str, Task], source: str) -> None:
    """Make sure that heads can read what a recipe wants them to, and that a linear head can be fitted.

    Raises:
        SpecError: another task, family or pooling.
    """
    recipe, problems = spec.training, []
    is_linear, is_mean = recipe.method == "linear_head", recipe.head_reads == "mean"
    if is_linear:
        unfit = [task.name for task in tasks.values() if task.classes_of != "rows"]
        found = f"linear_head, for {unfit[0] if unfit else 'several heads'}"
        expected = "one task with one label for each row, or method: finetune"
    else:
        unfit = [task.name for task in tasks.values() if not is_over_rows(task)]
        found = f"{recipe.head_reads}, for {unfit[0] if unfit else 'several heads'}"
        expected = "one task whose head gives something for each row, or head_reads: auto"
    if (is_linear or recipe.head_reads != "auto") and (unfit or spec.heads):
        problems.append(Problem("training.method" if is_linear else "training.head_reads", found, expected))
    if is_linear or is_mean:
        config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
        use, can_pool = "linear_head" if is_linear else "head_reads: mean", hasattr(config, _OWN_POOLING)
        if config.model_type not in FAMILIES and (is_linear or not can_pool):
            known = (*FAMILIES, *(() if is_linear else ("modernbert",)))
            problems.append(
                Problem("model", f"is of family {config.model_type}", f"for {use} one of: {', '.join(known)}")
            )
    if is_linear and recipe.head_reads == "auto" and spec.pooling == "max":
        problems.append(Problem("pooling", "holds 'max'", "mean or cls, for linear_head"))
    if problems:
        raise SpecError(source, tuple(problems))


def _wants_mean(spec: FinetuneSpec, task: Task, config: Any, is_new: bool, num_rows: int) -> bool:
    recipe, read = spec.training, reads_mean(config)
    if spec.heads or not is_over_rows(task):
        return read and not has_mean_layer(config)
    if recipe.head_reads != "auto":
        return recipe.head_reads == "mean"
    can = config.model_type in FAMILIES or hasattr(config, _OWN_POOLING)
    if recipe.method == "linear_head":
        return spec.pooling == "mean"
    is_few = num_rows < _FEW_ROWS_A_LABEL * config.num_labels  # a number a row counts as one
    return read or (is_new and can and is_few and spec.pooling == "mean")


def is_over_rows(task: Task) -> bool:
    """Whether a task's head gives something for each row from the states of its tokens."""
    return task.head_class == "AutoModelForSequenceClassification"


def _add_layer(network: Any) -> None:
    """Put one more layer on the encoder, after which every position holds the normalised mean of all positions."""
    layers, config = layer_list(network.base_model), network.config
    layers.append(copy.deepcopy(layers[-1]))
    parts = find_layers(network.base_model)[-1]
    identity = torch.eye(config.hidden_size)
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.zero_()
        parts.query_key_value[-1].weight.copy_(identity)
        parts.attention_output.weight.copy_(_MEAN_OVER_OWN * identity)
        parts.attention_norm.weight.fill_(1)
        parts.output_norm.weight.fill_(1)
    mark_mean_layer(config, is_there=True)


def _drop_layer(network: Any) -> None:
    del layer_list(network.base_model)[-1]
    mark_mean_layer(network.config, is_there=False)


def _pass_through(network: Any, share: float) -> None:
    """Let the head's dense layer hand on what it gets, so many times; more than nothing, where only that passes."""
    pooler = getattr(network.base_model, "pooler", None)
    is_rectified = network.config.model_type == "distilbert"
    dense = network.pre_classifier if is_rectified else network.classifier.dense if pooler is None else pooler.dense
    with torch.no_grad():
        dense.weight.copy_(share * torch.eye(dense.out_features))
        dense.bias.fill_(float(is_rectified))
