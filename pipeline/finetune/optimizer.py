"""AdamW over the weights that are trained, each group at its own learning rate."""

from __future__ import annotations

import torch

from pipeline.encoder.heads import JoinedHeads
from pipeline.finetune.layers import count_layers, find_height
from pipeline.finetune.spec import TrainingConfig


def make_optimizer(joined: JoinedHeads, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and normalisation; heads, and with `layer_decay` layers, at their own rates.

    Each group carries `peak_lr`, which `set_learning_rate` scales.
    """
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    rates = _peak_rates(joined, config)
    for parameter in joined.parameters():
        if parameter.requires_grad:
            rate = rates.get(id(parameter), config.head_learning_rate or config.learning_rate)
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (rate, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        fused=True,  # one pass over weights and moments: a step on CPU takes two thirds of the time
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def _peak_rates(joined: JoinedHeads, config: TrainingConfig) -> dict[int, float]:
    """The encoder's weights, by identity: the highest layer and what is above it have the recipe's rate."""
    num_layers = count_layers(joined.encoder.config)
    return {
        id(parameter): config.learning_rate * config.layer_decay ** max(0, num_layers - find_height(name, num_layers))
        for name, parameter in joined.encoder.named_parameters()
    }
