"""Attention over packs: windows back to back in one row, each token sees its own window only.

On CUDA in half precision, one call of varlen attention; elsewhere (and where attention has dropout, which that kernel
lacks) one call for each rectangle of neighbouring windows of like length. Where they are equally long it needs no mask.
A pack sorted by length has few rectangles.

Shape letters: T tokens of the pack, W windows, N windows of one rectangle, L tokens of its longest, H heads, D numbers
of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"
# Families whose attention goes through transformers' interface and whose positions can be given; each is compared with
# its own padded batches in the tests. Others (DeBERTa: relative positions inside the kernel, MPNet, XLNet) are padded.
_PACKABLE = frozenset(
    ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert"],
)


# Neighbours of unlike length share a rectangle while that adds no more than so many cells (query x key) of padding.
_MAX_PADDED_CELLS = 8_192


@dataclass(frozen=True)
class Rectangle:
    """Neighbouring windows that attend in one call.

    Attributes:
        num_tokens: Their tokens.
        shape: (N, L).
        cells: int64 [num_tokens]; where in [N x L] each token stands. None: windows of equal length fill it.
        mask: bool [N, 1, 1, L]; True where a token stands. None with `cells`.
    """

    num_tokens: int
    shape: tuple[int, int]
    cells: torch.Tensor | None
    mask: torch.Tensor | None

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], device: torch.device) -> Rectangle:
        """The rectangle of windows of these lengths."""
        shape = (len(lengths), int(lengths.max()))
        if lengths.min() == shape[1]:
            return cls(int(lengths.sum()), shape, None, None)
        inside = np.arange(shape[1]) < lengths[:, None]
        cells, mask = torch.from_numpy(np.flatnonzero(inside)), torch.from_numpy(inside)[:, None, None]
        return cls(int(lengths.sum()), shape, cells.to(device), mask.to(device))

    def spread(self, states_THD: torch.Tensor) -> torch.Tensor:
        """This rectangle's tokens -> [N, H, L, D]."""
        if self.cells is None:
            return states_THD.view(*self.shape, *states_THD.shape[1:]).transpose(1, 2)
        flat = states_THD.new_zeros(self.shape[0] * self.shape[1], *states_THD.shape[1:])
        return flat.index_copy(0, self.cells, states_THD).view(*self.shape, *states_THD.shape[1:]).transpose(1, 2)

    def gather(self, output_NHLD: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        flat = output_NHLD.transpose(1, 2).flatten(0, 1)
        return flat if self.cells is None else flat.index_select(0, self.cells)


@dataclass(frozen=True)
class Pack:
    """Where the windows of a pack begin and end.

    Attributes:
        offsets: int32 [W + 1], on the model's device.
        longest: Tokens of the longest window.
        rectangles: All windows, in order.
    """

    offsets: torch.Tensor
    longest: int
    rectangles: tuple[Rectangle, ...]

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], device: torch.device) -> Pack:
        """The pack of windows of these lengths, in this order."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rectangles = tuple(Rectangle.of(part, device) for part in _split_alike(lengths))
        return cls(torch.from_numpy(offsets).to(device, non_blocking=True), int(lengths.max(initial=0)), rectangles)


def _split_alike(lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Lengths in order, split so that each part pads few cells."""
    starts = [0]
    longest = num_cells = 0
    for index, length in enumerate(lengths.tolist()):
        reached = max(longest, length)
        padded = (index + 1 - starts[-1]) * reached**2 - (num_cells + length**2)
        if padded > _MAX_PADDED_CELLS:
            starts.append(index)
            reached, num_cells = length, 0
        longest, num_cells = reached, num_cells + length**2
    return np.split(lengths, starts[1:]) if len(lengths) else []


def can_pack(config: Any) -> bool:
    """Whether a model of this configuration takes packs."""
    return config.model_type in _PACKABLE and not getattr(config, "is_decoder", False)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack: Pack | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, with a keyword argument of ours that models hand through.

    Args:
        module: The layer.
        query: [1, H, T, D], as key and value.
        key: The same.
        value: The same.
        attention_mask: Of a padded batch; None in a pack.
        pack: The windows; None for a padded batch, which goes to torch's own attention.
        dropout: Of attention weights.
        scaling: Of query times key.
        sliding_window: A token sees others less than this far away (transformers counts one more than the reach).
        options: What other kernels take.

    Returns:
        [1, T, H, D], and no weights.
    """
    if pack is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False, **options
        )
    query_THD, key_THD, value_THD = (states[0].transpose(0, 1) for states in (query, key, value))
    reach = None if sliding_window is None else sliding_window - 1
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
        window = (-1, -1) if reach is None else (reach, reach)
        offsets, longest = pack.offsets, pack.longest
        output_THD = varlen_attn(
            query_THD, key_THD, value_THD, offsets, offsets, longest, longest, scale=scaling, window_size=window
        )
        assert isinstance(output_THD, torch.Tensor)
        return output_THD.unsqueeze(0), None
    sizes = [rectangle.num_tokens for rectangle in pack.rectangles]
    outputs = []
    splits = (torch.split(states_THD, sizes) for states_THD in (query_THD, key_THD, value_THD))
    for rectangle, *states in zip(pack.rectangles, *splits, strict=True):
        query_NHLD, key_NHLD, value_NHLD = (rectangle.spread(part_THD) for part_THD in states)
        mask, length = rectangle.mask, rectangle.shape[1]
        if reach is not None and length > reach:
            band = _band(length, reach, query.device)
            mask = band if mask is None else mask & band
        output_NHLD = scaled_dot_product_attention(
            query_NHLD, key_NHLD, value_NHLD, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
        outputs.append(rectangle.gather(output_NHLD))
    return torch.cat(outputs).unsqueeze(0), None


def _band(length: int, reach: int, device: torch.device) -> torch.Tensor:
    """True where two positions are at most `reach` apart: [L, L]."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions[None, :]).abs() <= reach


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
