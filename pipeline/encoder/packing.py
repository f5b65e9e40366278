"""Attention over packs: windows back to back in one row, each token sees its own window only.

On CUDA in half precision, one call of varlen attention; elsewhere (and where attention has dropout, which that kernel
lacks) one call for each rectangle of neighbouring windows of like length. Where they are equally long it needs no mask.
A pack sorted by length has few rectangles.

Shape letters: T tokens of the pack, W windows, N windows of one rectangle, L tokens of its longest, H heads, D numbers
of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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
    (
        *("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert"),
        *("camembert", "ernie", "gte", "jina_embeddings_v3", "nomic_bert", "xlm-roberta-xl"),
    )
)
# Windows of unlike length share a rectangle while it has few tokens (they are copied into it and out again) and few
# cells (query x key) of padding. A call forward and backward costs more than one forward, so training merges more.
_MAX_PADDED_CELLS = 8_192
_FIRST_WITH_VARLEN = (8, 0)
_MAX_MERGED_TOKENS = {"inference": 400, "training": 4_000}


def spread_tokens(values_T: torch.Tensor, cells_T: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Put tokens' values [T, ...] into their cells of a rectangle: [N, L, ...], zero where no token stands."""
    flat = values_T.new_zeros(shape[0] * shape[1], *values_T.shape[1:])
    return flat.index_copy(0, cells_T, values_T).view(*shape, *values_T.shape[1:])


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

    def spread(self, values_T: torch.Tensor) -> torch.Tensor:
        """This rectangle's tokens [num_tokens, ...] -> [N, L, ...], zero where no token stands."""
        if self.cells is not None:
            return spread_tokens(values_T, self.cells, self.shape)
        return values_T.view(*self.shape, *values_T.shape[1:])

    def gather(self, values_NL: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        flat = values_NL.flatten(0, 1)
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

    def split(self, values_T: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens of the pack [T, ...] -> each rectangle's."""
        parts: tuple[torch.Tensor, ...] = torch.split(values_T, [part.num_tokens for part in self.rectangles])
        return parts

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], device: torch.device, is_training: bool = False) -> Pack:
        """The pack of windows of these lengths, in this order."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        parts = _split_alike(lengths, _MAX_MERGED_TOKENS["training" if is_training else "inference"])
        rectangles = tuple(Rectangle.of(part, device) for part in parts)
        return cls(torch.from_numpy(offsets).to(device, non_blocking=True), int(lengths.max(initial=0)), rectangles)


def _split_alike(lengths: npt.NDArray[np.int64], max_merged_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Lengths in order, cut between runs of equal ones; small neighbouring runs stay together."""
    if not len(lengths):
        return []
    starts = np.flatnonzero(np.diff(lengths, prepend=-1)).tolist()
    cuts = starts[:1]
    for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True):
        merged = lengths[cuts[-1] : stop]
        num_padded_cells = len(merged) * int(merged.max()) ** 2 - int((merged**2).sum())
        if start != cuts[-1] and (merged.sum() > max_merged_tokens or num_padded_cells > _MAX_PADDED_CELLS):
            cuts.append(start)
    return np.split(lengths, cuts[1:])


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
    if query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0 and _has_varlen(query.device):
        window = (-1, -1) if reach is None else (reach, reach)
        offsets, longest = pack.offsets, pack.longest
        output_THD = varlen_attn(
            query_THD, key_THD, value_THD, offsets, offsets, longest, longest, scale=scaling, window_size=window
        )
        assert isinstance(output_THD, torch.Tensor)
        return output_THD.unsqueeze(0), None
    outputs = []
    splits = (pack.split(states_THD) for states_THD in (query_THD, key_THD, value_THD))
    for rectangle, *states in zip(pack.rectangles, *splits, strict=True):
        query_NHLD, key_NHLD, value_NHLD = (rectangle.spread(part_THD).transpose(1, 2) for part_THD in states)
        mask, length = rectangle.mask, rectangle.shape[1]
        if reach is not None and length > reach:
            band = _band(length, reach, query.device)
            mask = band if mask is None else mask & band
        if dropout > 0.0:
            output_NHLD = _attend_with_dropout((query_NHLD, key_NHLD, value_NHLD), mask, dropout, scaling)
        else:
            output_NHLD = scaled_dot_product_attention(query_NHLD, key_NHLD, value_NHLD, attn_mask=mask, scale=scaling)
        outputs.append(rectangle.gather(output_NHLD.transpose(1, 2)))
    return (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).unsqueeze(0), None


@lru_cache(maxsize=16)
def _has_varlen(device: torch.device) -> bool:
    """Whether torch's varlen attention (FlashAttention 2) runs there."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_WITH_VARLEN


def _attend_with_dropout(
    states_NHLD: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Attention step by step: with dropout torch does the same on CPU, in more steps."""
    query_NHLD, key_NHLD, value_NHLD = states_NHLD
    scores_NHLL = torch.matmul(query_NHLD, key_NHLD.transpose(2, 3)) * (scaling or query_NHLD.shape[-1] ** -0.5)
    if mask is not None:
        scores_NHLL = scores_NHLL.masked_fill(~mask, torch.finfo(scores_NHLL.dtype).min)
    weights_NHLL = torch.softmax(scores_NHLL, dim=-1).to(value_NHLD.dtype)
    return torch.matmul(torch.nn.functional.dropout(weights_NHLL, dropout), value_NHLD)


def _band(length: int, reach: int, device: torch.device) -> torch.Tensor:
    """True where two positions are at most `reach` apart: [L, L]."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions[None, :]).abs() <= reach


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
