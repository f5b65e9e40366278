"""Token states -> one vector per window -> one vector per row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoder.packing import Pack
from pipeline.encoder.tokenize import TokenRows

FloatArray = npt.NDArray[np.float32]


def pool_tokens(states_BSH: torch.Tensor, mask_BS: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool token states into window vectors, in fp32 whatever the states' dtype.

    Args:
        states_BSH: Last hidden states.
        mask_BS: 1 for tokens, 0 for padding on either side; every window has at least one token.
        pooling: `mean`, `cls` (first token) or `max`.

    Returns:
        pooled_BH, float32.
    """
    states_BSH = states_BSH.float()
    if pooling == "cls":
        first_B = mask_BS.argmax(dim=1)
        return states_BSH[torch.arange(len(first_B), device=first_B.device), first_B]
    mask_BS1 = mask_BS.unsqueeze(-1).to(states_BSH.dtype)
    if pooling == "max":
        return states_BSH.masked_fill(mask_BS1 == 0, float("-inf")).amax(dim=1)
    return (states_BSH * mask_BS1).sum(dim=1) / mask_BS1.sum(dim=1)


def pool_pack(states_TH: torch.Tensor, pack: Pack, pooling: str) -> torch.Tensor:
    """The same of a pack's windows.

    Args:
        states_TH: Last hidden states; what stands behind the pack's tokens is not looked at.
        pack: The windows.
        pooling: As for `pool_tokens`.

    Returns:
        pooled_WH, float32.
    """
    if pooling == "cls":
        return pack.take_firsts(states_TH).float()
    pooled = []
    for rectangle, part_TH in zip(pack.rectangles, pack.split(states_TH[: pack.num_tokens]), strict=True):
        mask_NL = torch.ones(rectangle.shape, dtype=torch.long, device=states_TH.device)
        if rectangle.mask is not None:
            mask_NL = rectangle.mask[:, 0, 0].long()
        num_windows = rectangle.num_windows
        pooled.append(pool_tokens(rectangle.spread(part_TH)[:num_windows], mask_NL[:num_windows], pooling))
    return torch.cat(pooled)


def merge_windows(vectors_WH: FloatArray, rows: TokenRows, pooling: str, normalize: bool) -> FloatArray:
    """Window vectors -> row vectors: token-weighted mean for `mean`, maximum for `max`, plain mean for `cls`.

    Args:
        vectors_WH: One vector per window.
        rows: Says which window belongs to which row, and how long it is.
        pooling: How the windows themselves were pooled.
        normalize: Scale each row's vector to length 1.
    """
    merged_RH = vectors_WH
    if rows.row_of is not None:
        merged_RH = _merge(vectors_WH, rows, pooling)
    if normalize:
        merged_RH = merged_RH / np.maximum(np.linalg.norm(merged_RH, axis=1, keepdims=True), 1e-12)
    return np.asarray(merged_RH, np.float32)


def _merge(vectors_WH: FloatArray, rows: TokenRows, pooling: str) -> FloatArray:
    starts = np.searchsorted(rows.window_rows, np.arange(rows.num_rows))
    if pooling == "max":
        return np.asarray(np.maximum.reduceat(vectors_WH, starts, axis=0), np.float32)
    weights_W = rows.lengths.astype(np.float64) if pooling == "mean" else np.ones(len(rows))
    sums_RH = np.add.reduceat(vectors_WH * weights_W[:, None], starts, axis=0)
    return np.asarray(sums_RH / np.add.reduceat(weights_W, starts)[:, None], np.float32)
