"""Token states -> one vector per row."""

from __future__ import annotations

import torch


def pool_tokens(states_BSH: torch.Tensor, mask_BS: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool token states into row vectors, in fp32 whatever the states' dtype.

    Args:
        states_BSH: Last hidden states.
        mask_BS: 1 for tokens, 0 for padding; every row has at least one token.
        pooling: `mean`, `cls` (first token) or `max`.

    Returns:
        pooled_BH, float32.
    """
    states_BSH = states_BSH.float()
    if pooling == "cls":
        return states_BSH[:, 0]
    mask_BS1 = mask_BS.unsqueeze(-1).to(states_BSH.dtype)
    if pooling == "max":
        return states_BSH.masked_fill(mask_BS1 == 0, float("-inf")).amax(dim=1)
    return (states_BSH * mask_BS1).sum(dim=1) / mask_BS1.sum(dim=1)


def normalize_rows(vectors_BH: torch.Tensor) -> torch.Tensor:
    """Scale each row to length 1."""
    return torch.nn.functional.normalize(vectors_BH, dim=-1)
