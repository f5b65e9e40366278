"""Dropout whose masks are cheap to draw on CPU: 16 random bits an element, from numpy's SFC64.

torch draws a mask on CPU number by number, from one generator, on one thread. Each mask here has a generator of its
own, which torch's seeds: so a seed decides all masks, and layers that are computed again draw theirs again.
A share is rounded to a multiple of 1/65,536. Elsewhere torch draws the masks.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_LEVELS = 65_536
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class QuickDropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, with such masks."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What is kept, scaled up, while training; all of it otherwise."""
        if input.device.type != "cpu" or not self.training or self.p == 0:
            return super().forward(input)
        return input * draw_factors(input.shape, self.p, input)


def quicken_dropout(network: torch.nn.Module) -> None:
    """Replace every plain dropout of a network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, QuickDropout(child.p).train(child.training))


def draw_factors(shape: torch.Size, share: float, like: torch.Tensor) -> torch.Tensor:
    """What to multiply values by: 0 for a share of them, and for the others what keeps their expected sum.

    Args:
        shape: Of the values.
        share: How many become 0.
        like: Has their device and dtype.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.nn.functional.dropout(torch.ones(shape, dtype=like.dtype, device=like.device), share)
    num_dropped = round(share * _LEVELS)
    if num_dropped == _LEVELS:
        return like.new_zeros(shape)
    count = math.prod(shape)
    source = np.random.SFC64(int(torch.randint(2**62, ())))
    kept = source.random_raw(-(-count // 4)).view(np.uint16)[:count] >= num_dropped
    factor = torch.tensor(_LEVELS / (_LEVELS - num_dropped), dtype=like.dtype)
    # 0 or 1 times the factor's own bits: torch turns booleans into numbers one by one, five times as slowly.
    bits = factor.view(_BITS[factor.element_size()]).numpy()
    return torch.from_numpy(np.multiply(kept, bits, dtype=bits.dtype)).view(like.dtype).view(shape)
