"""A checkpoint's head and the labels that are to be learned: outputs are matched by name, never by place alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig

from pipeline.finetune.last_layer import LastLayer

_UNNAMED = re.compile(r"LABEL_(\d+)")  # transformers' own, where nobody gave names


def read_labels(source: str) -> tuple[str, ...]:
    """The labels of a checkpoint's outputs, in their order; some are given for a checkpoint without a head too."""
    names = AutoConfig.from_pretrained(source, trust_remote_code=False).id2label
    return tuple(str(names[place]) for place in sorted(names))


def match_labels(
    network: Any, new_weights: frozenset[str], known: Sequence[str], labels: Sequence[str]
) -> frozenset[str]:
    """Put the outputs of a checkpoint's head in the order of `labels`, or draw its last layer where it knows others.

    Names are compared without case, and `LABEL_3` is `3`: `NEGATIVE` goes on as `negative`.

    Args:
        network: As it was loaded, with as many outputs as `labels`; changed in place.
        new_weights: Names of those of its weights that the checkpoint did not have.
        known: The checkpoint's labels (`read_labels`).
        labels: Those to learn.

    Returns:
        `new_weights`, and the last layer's where it was drawn.
    """
    last = LastLayer.of(network).linear
    owned = frozenset(
        name for name, weight in network.named_parameters() if weight is last.weight or weight is last.bias
    )
    if owned & new_weights:
        return new_weights
    order = _places(known, labels) or _places([*map(_plain, known)], [*map(_plain, labels)])
    with torch.no_grad():
        if order is not None:
            for weight in last.parameters():
                weight.copy_(weight[order].clone())
            return new_weights
        parts: tuple[Any, ...] = (last, *last.parameters())
        for part in parts:
            part._is_hf_initialized = False  # or transformers leaves loaded weights as they are
        network._init_weights(last)
    return new_weights | owned


def _places(known: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Where each label stands among the known ones; None where they are not the same."""
    if sorted(known) != sorted(labels) or len(set(known)) < len(known):
        return None
    return [known.index(label) for label in labels]


def _plain(label: str) -> str:
    unnamed = _UNNAMED.fullmatch(label)
    return unnamed[1] if unnamed else label.casefold()
