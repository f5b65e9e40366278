"""Cross-entropy over classes, of rows or of tokens, hard or soft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.tasks.base import IGNORED

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Emphasis:
    """What counts how much.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes.
        class_weights: float32 [C], what a target of each class counts; None: all the same.
        temperature: Soft targets, and what is compared with them, are those of logits divided by this; the loss is
            times its square, so that the learning rate keeps its meaning (Hinton et al. 2015,
            https://arxiv.org/abs/1503.02531, section 2).
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    temperature: float = 1.0


def class_loss_sum(logits: torch.Tensor, targets: torch.Tensor, emphasis: Emphasis = Emphasis()) -> torch.Tensor:
    """Cross-entropy in fp32, summed over valid targets.

    Args:
        logits: [B, C], or [B, S, C] from a head over tokens.
        targets: [B, 1] class numbers or [B, C] probabilities; [B, S] class numbers of tokens.
        emphasis: Smoothing and weights.
    """
    from torch.nn.functional import cross_entropy

    weights = None if emphasis.class_weights is None else emphasis.class_weights.to(logits.device)
    smoothing = emphasis.label_smoothing
    flat = logits.float().reshape(-1, logits.shape[-1])
    if logits.ndim == 2 and targets.shape[1] > 1:
        heat = emphasis.temperature
        soft = targets.float() ** (1 / heat)
        soft = soft / soft.sum(dim=-1, keepdim=True)
        loss = cross_entropy(flat / heat, soft, weights, label_smoothing=smoothing, reduction="sum")
        return heat**2 * loss
    classes = targets.reshape(-1).long()
    return cross_entropy(flat, classes, weights, ignore_index=int(IGNORED), label_smoothing=smoothing, reduction="sum")
