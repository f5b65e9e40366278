"""What a forward pass computes, by the usual estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoder.layers import find_layers


def forward_flops(encoder: Any, lengths: npt.NDArray[np.int64], firsts_only: bool = False) -> float:
    """FLOP of one pass of an encoder over windows of these lengths [W], padding and heads left out.

    2 x weights x tokens + 4 x layers x hidden x sum of squared lengths: a multiplication and an addition for each
    matrix weight that a token passes (embedding tables are looked up, not multiplied), and the two products of
    attention. Layers that share weights (ALBERT) count each time they run; local attention counts as full. With
    `firsts_only` the last layer, one of `find_layers`, computes keys and values alone but for first tokens, and not
    even those where it takes the mean.
    """
    config = encoder.config
    matrices = (
        parameter.numel()
        for name, parameter in encoder.named_parameters()
        if parameter.ndim == 2 and "embedding" not in name and "pooler" not in name
    )
    repeats = config.num_hidden_layers / getattr(config, "num_hidden_groups", config.num_hidden_layers)
    squares = float(np.square(lengths.astype(np.float64)).sum())
    attention = 4.0 * config.num_hidden_layers * config.hidden_size * squares
    spared = _spared_flops(encoder, lengths) if firsts_only else 0.0
    return float(2.0 * sum(matrices) * repeats * lengths.sum() + attention - spared)


def _spared_flops(encoder: Any, lengths: npt.NDArray[np.int64]) -> float:
    *_, last = find_layers(encoder)
    query, key, value = last.query_key_value
    spared = [query, last.attention_output, last.up, last.down, *([key, value] if last.takes_mean else [])]
    weights, later = sum(module.weight.numel() for module in spared), (lengths - 1).astype(np.float64)
    unattended = lengths if last.takes_mean else later
    return float(2.0 * weights * later.sum() + 4.0 * encoder.config.hidden_size * (unattended * lengths).sum())
