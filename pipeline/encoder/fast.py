"""The layers of BERT-like encoders for inference in half precision.

torch's autocast casts every weight and every activation anew for each linear layer and keeps normalisation in fp32.
Here weights are bf16 from the start, one matrix gives query, key and value, and activations stay bf16 between layers
(normalisation computes in fp32 inside). On CPU the matrices are laid out for oneDNN once, and the same kernel adds
bias, activation and residual; a CPU whose oneDNN has no such kernel gets torch's linear layers. Families that this does
not describe, and rows that come out non-finite, run through transformers' own modules.

Shape letters: T tokens of a pack, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import layer_norm, linear
from transformers.modeling_outputs import BaseModelOutput

from pipeline.encoder.attention import has_onednn_kernels
from pipeline.encoder.forward import ModelBatch, takes_packs
from pipeline.encoder.layers import (
    ACTIVATIONS,
    LayerParts,
    activation_name,
    embed_tokens,
    find_layers,
    has_known_layers,
)
from pipeline.encoder.packed_attention import Attending
from pipeline.encoder.packing import Pack
from pipeline.encoder.pooling import pool_pack

_FUSED_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
}
_BATCH_HINT_TOKENS = 4_096  # what a packed layout is chosen for; any batch may use it


class _Linear:
    """Several linear modules over the same input, as one."""

    def __init__(self, dtype: torch.dtype, *modules: Any) -> None:
        weight, bias = (torch.cat([getattr(part, name).detach() for part in modules]) for name in ("weight", "bias"))
        self._weight, self._bias = weight.to(dtype), bias.to(dtype)
        # What torch's own compiler calls for linear layers on CPU.
        self._kernels = torch.ops.mkldnn if weight.device.type == "cpu" and has_onednn_kernels(dtype) else None
        if self._kernels is not None:
            self._weight = self._kernels._reorder_linear_weight(self._weight, _BATCH_HINT_TOKENS)

    def __call__(self, values: torch.Tensor, activation: str | None = None) -> torch.Tensor:
        """The product, or what an activation of `ACTIVATIONS` makes of it."""
        if self._kernels is not None:
            kind, algorithm = ("none", "") if activation is None else _FUSED_ACTIVATIONS[activation]
            fused: torch.Tensor = self._kernels._linear_pointwise(values, self._weight, self._bias, kind, [], algorithm)
            return fused
        product = linear(values, self._weight, self._bias)
        return product if activation is None else ACTIVATIONS[activation](product)

    def add_to(self, values: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The product and the residual."""
        if self._kernels is not None:
            fused: torch.Tensor = self._kernels._linear_pointwise.binary(
                values, residual, self._weight, self._bias, "add"
            )
            return fused
        return linear(values, self._weight, self._bias).add_(residual)


@dataclass(frozen=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float

    @classmethod
    def of(cls, dtype: torch.dtype, module: Any) -> _Norm:
        return cls(module.weight.detach().to(dtype), module.bias.detach().to(dtype), module.eps)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return layer_norm(values, self.weight.shape, self.weight, self.bias, self.epsilon)


class FastEncoder:
    """An encoder's weights as they are now, in half precision.

    Args:
        encoder: A base model for which `fits` is true, in eval mode.
        dtype: Of weights and activations.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype) -> None:
        self._encoder, self._dtype = encoder, dtype
        num_heads, activation = encoder.config.num_attention_heads, activation_name(encoder.config)
        self._layers = [_Layer(parts, dtype, num_heads, activation) for parts in find_layers(encoder)]

    @staticmethod
    def fits(encoder: Any) -> bool:
        """Whether an encoder is made of such layers."""
        return takes_packs(encoder) and has_known_layers(encoder)

    def __call__(self, batch: ModelBatch, firsts_only: bool = False) -> BaseModelOutput:
        """Token states of a packed batch: [1, T, H], or of its windows' first tokens: [1, W, H]; in half precision."""
        assert batch.pack is not None
        with torch.autocast(batch.cells.device.type, enabled=False):
            states_TH = embed_tokens(self._encoder, batch.inputs)[0].to(self._dtype)
            *lower, last = self._layers
            for layer in lower:
                states_TH = layer(states_TH, batch.pack)
            states_TH = last(states_TH, batch.pack, firsts_only)
        return BaseModelOutput(last_hidden_state=states_TH.unsqueeze(0))


class _Layer:
    """A layer's weights, converted."""

    def __init__(self, parts: LayerParts, dtype: torch.dtype, num_heads: int, activation: str) -> None:
        self._query_key_value = _Linear(dtype, *parts.query_key_value)
        self._value = _Linear(dtype, parts.query_key_value[-1]) if parts.takes_mean else None
        self._attention_output = _Linear(dtype, parts.attention_output)
        self._attention_norm = _Norm.of(dtype, parts.attention_norm)
        self._up, self._down = _Linear(dtype, parts.up), _Linear(dtype, parts.down)
        self._output_norm = _Norm.of(dtype, parts.output_norm)
        self._num_heads, self._activation = num_heads, activation

    def __call__(self, states_TH: torch.Tensor, pack: Pack, firsts_only: bool = False) -> torch.Tensor:
        if firsts_only and self._value is not None:
            attended = self._value(pool_pack(states_TH, pack, "mean").to(states_TH.dtype))
        else:
            attended = self._attend(states_TH, pack, firsts_only)
        if firsts_only:
            states_TH = pack.take_firsts(states_TH)
        states_TH = self._attention_norm(self._attention_output.add_to(attended, states_TH))
        return self._output_norm(self._down.add_to(self._up(states_TH, self._activation), states_TH))

    def _attend(self, states_TH: torch.Tensor, pack: Pack, firsts_only: bool) -> torch.Tensor:
        parts = self._query_key_value(states_TH).chunk(3, dim=-1)
        query, key, value = (part.view(len(states_TH), self._num_heads, -1) for part in parts)
        query = pack.take_firsts(query) if firsts_only else query
        return Attending(pack, by_firsts=firsts_only).attend(query, key, value).flatten(1)
