"""What a forward pass computes, by the usual estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def forward_flops(encoder: Any, lengths: npt.NDArray[np.int64]) -> float:
    """FLOP of one pass of an encoder over windows of these lengths [W], padding and heads left out.

    2 x weights x tokens + 4 x layers x hidden x sum of squared lengths: a multiplication and an addition for each
    matrix weight that a token passes (embedding tables are looked up, not multiplied), and the two products of
    attention. Layers that share weights (ALBERT) count each time they run; local attention counts as full.
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
    return float(2.0 * sum(matrices) * repeats * lengths.sum() + attention)
