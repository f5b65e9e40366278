"""Attention over packs: each token sees its own window only.

On CUDA in half precision, one call of varlen attention; elsewhere one call for each rectangle of the pack.

Shape letters: T tokens of the pack, Q tokens that ask (all, or the first of each window), N windows of one rectangle,
L tokens of its longest, H heads, D numbers of a head, B all heads of all windows of a rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.encoder.dropping_attention import attend_dropping, pull_back
from pipeline.encoder.packing import Pack, Rectangle
from pipeline.encoder.short_attention import attend_short, by_head, is_short

PACKED = "packed"
# Families whose attention goes through transformers' interface and whose positions can be given; each is compared with
# its own padded batches in the tests. Others (DeBERTa: relative positions inside the kernel, MPNet, XLNet) are padded.
_PACKABLE = frozenset(
    (
        *("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert"),
        *("camembert", "ernie", "gte", "jina_embeddings_v3", "nomic_bert", "xlm-roberta-xl"),
    )
)
_FIRST_WITH_VARLEN = (8, 0)
# Numbers of a head: others the kernel refuses (a small TinyBERT has 26), and larger ones, on some GPUs, with dropout.
_HEAD_SIZES_OF, _LARGEST_HEAD = 8, 128


def can_pack(config: Any) -> bool:
    """Whether a model of this configuration takes packs."""
    return config.model_type in _PACKABLE and not getattr(config, "is_decoder", False)


@dataclass(frozen=True)
class Attending:
    """How tokens of a pack attend.

    Attributes:
        pack: The windows.
        dropout: Of attention weights.
        scaling: Of query times key; None: one over the root of D.
        reach: A token sees others at most this far away; None: all of its window.
        by_firsts: Only the first token of each window asks, and sees all of it: the kernels count a reach from windows'
            ends.
    """

    pack: Pack
    dropout: float = 0.0
    scaling: float | None = None
    reach: int | None = None
    by_firsts: bool = False

    def __post_init__(self) -> None:
        assert self.reach is None or not self.by_firsts

    def attend(self, query_QHD: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor) -> torch.Tensor:
        """What the tokens that ask get: [Q, H, D]."""
        states = (query_QHD, key_THD, value_THD)
        if _takes_varlen(query_QHD):
            return self._attend_varlen(*states)
        if self.dropout > 0.0:
            dropped: torch.Tensor = _DroppingAttention.apply(*states, self)  # type: ignore[no-untyped-call]
            return dropped
        outputs = []
        for rectangle, *parts in self._rectangles(*states):
            outputs.append(self._gather(rectangle, self._attend_rectangle(self._mask(rectangle), *parts)))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _attend_rectangle(
        self, mask: torch.Tensor | None, query_NQHD: torch.Tensor, key_NLHD: torch.Tensor, value_NLHD: torch.Tensor
    ) -> torch.Tensor:
        """What the tokens that ask get: [N, Q, H, D]."""
        parts = (query_NQHD, key_NLHD, value_NLHD)
        if is_short(*parts):
            output = attend_short(*parts, mask, self.scaling)
            if output is not None:
                return output
        query, key, value = (part.transpose(1, 2) for part in parts)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scaling).transpose(1, 2)

    def _attend_varlen(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        offsets, longest = self.pack.offsets, self.pack.longest
        asking, most = offsets, longest
        if self.by_firsts:
            asking, most = torch.arange(len(offsets), dtype=torch.int32, device=offsets.device), 1
        reach = -1 if self.reach is None else self.reach
        places = (asking, offsets, most, longest)
        if self.dropout > 0.0:  # varlen_attn is this operator without dropout; gradients are the operator's own
            dropped: torch.Tensor = torch.ops.aten._flash_attention_forward(
                *(query, key, value, *places, self.dropout, False, False),
                scale=self.scaling,
                window_size_left=reach,
                window_size_right=reach,
            )[0]
            return dropped
        output = varlen_attn(query, key, value, *places, scale=self.scaling, window_size=(reach, reach))
        assert isinstance(output, torch.Tensor)
        return output

    def _rectangles(self, query_QHD: torch.Tensor, *others_THD: torch.Tensor) -> Any:
        """Each rectangle, and its part of query [N, 1 or L, H, D] and of others [N, L, H, D]."""
        rectangles, others = self.pack.rectangles, [self.pack.split(states) for states in others_THD]
        queries = self._split_queries(query_QHD)
        for rectangle, query, *parts in zip(rectangles, queries, *others, strict=True):
            yield (rectangle, self._spread(rectangle, query), *(rectangle.spread(part) for part in parts))

    def _split_queries(self, query_QHD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.by_firsts:
            return self.pack.split(query_QHD)
        firsts: tuple[torch.Tensor, ...] = torch.split(query_QHD, [part.num_windows for part in self.pack.rectangles])
        return firsts

    def _spread(self, rectangle: Rectangle, query_QHD: torch.Tensor) -> torch.Tensor:
        return rectangle.spread_firsts(query_QHD) if self.by_firsts else rectangle.spread(query_QHD)

    def _gather(self, rectangle: Rectangle, output_NQHD: torch.Tensor) -> torch.Tensor:
        return rectangle.gather_firsts(output_NQHD) if self.by_firsts else rectangle.gather(output_NQHD)

    def _mask(self, rectangle: Rectangle) -> torch.Tensor | None:
        """True where a key is seen: [N, 1, 1, L], [N, 1, L, L] or [L, L]; None: everywhere."""
        mask, length = rectangle.mask, rectangle.shape[1]
        if self.reach is None or length <= self.reach:
            return mask
        band = _band(length, self.reach, self.pack.offsets.device)
        return band if mask is None else mask & band


class _DroppingAttention(torch.autograd.Function):
    """Attention with dropout, whose gradients pass through fewer copies than autograd's."""

    @staticmethod
    def forward(
        ctx: Any, query_QHD: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor, how: Attending
    ) -> torch.Tensor:
        ctx.how, scale, outputs, kept = how, how.scaling or query_QHD.shape[-1] ** -0.5, [], []
        with torch.autocast(query_QHD.device.type, enabled=False):
            for rectangle, *parts in how._rectangles(query_QHD, key_THD, value_THD):
                query, key, value = (by_head(part) for part in parts)
                states = (query, key, value)
                output_BLD, *needed = attend_dropping(states, how._mask(rectangle), scale, how.dropout)
                outputs.append(how._gather(rectangle, _by_window(output_BLD, rectangle.shape[0])))
                kept += [*states, *needed]
        ctx.save_for_backward(*kept)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        how, kept, (gradient_QHD,) = ctx.how, iter(ctx.saved_tensors), gradients
        scale, pulls = how.scaling or gradient_QHD.shape[-1] ** -0.5, []
        parts = zip(how.pack.rectangles, how._split_queries(gradient_QHD), strict=True)
        with torch.autocast(gradient_QHD.device.type, enabled=False):
            for rectangle, part in parts:
                pull = by_head(how._spread(rectangle, part))
                query, key, value, weights, factors = islice(kept, 5)
                of_query, *others = pull_back(pull, (query, key, value), weights, factors, scale)
                num_windows = rectangle.shape[0]
                pulls.append(
                    (
                        how._gather(rectangle, _by_window(of_query, num_windows)),
                        *(rectangle.gather(_by_window(other, num_windows)) for other in others),
                    )
                )
            query, key, value = (torch.cat(found) if len(found) > 1 else found[0] for found in zip(*pulls, strict=True))
        return query, key, value, None


def _by_window(states_BLD: torch.Tensor, num_windows: int) -> torch.Tensor:
    """[B, L, D] -> [N, L, H, D]."""
    return states_BLD.view(num_windows, -1, *states_BLD.shape[1:]).transpose(1, 2)


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
    how = Attending(pack, dropout, scaling, None if sliding_window is None else sliding_window - 1)
    # Under autocast the rotary positions of some families leave queries and keys in fp32, beside values in bf16.
    parts = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
    return how.attend(*parts).unsqueeze(0), None


def _takes_varlen(query_QHD: torch.Tensor) -> bool:
    return _has_varlen(query_QHD.device, query_QHD.dtype, query_QHD.shape[-1])


@lru_cache(maxsize=16)
def _has_varlen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether torch's varlen attention (FlashAttention 2) takes this there, dropout and gradients included."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    is_built = torch.backends.cuda.is_flash_attention_available()
    takes_heads = head_size % _HEAD_SIZES_OF == 0 and head_size <= _LARGEST_HEAD
    return is_built and takes_heads and torch.cuda.get_device_capability(device) >= _FIRST_WITH_VARLEN


def _band(length: int, reach: int, device: torch.device) -> torch.Tensor:
    """True where two positions are at most `reach` apart: [L, L]."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions[None, :]).abs() <= reach


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
