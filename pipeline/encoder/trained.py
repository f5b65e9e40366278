"""The layers of BERT-like encoders over packs, with gradients: what transformers' modules compute, in fewer steps.

One product gives query, key and value. Where only the first token of each window is read, the last layer computes
queries, and all that follows them, for those tokens alone; one that takes the mean takes it before anything else.

Shape letters: T tokens of a pack, Q of them that go on (all, or the first of each window), H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

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


def runs_here(encoder: Any) -> bool:
    """Whether an encoder's layers are known, and nobody listens to, wraps or recomputes transformers' modules."""
    return has_known_layers(encoder) and not any(map(_is_watched, encoder.modules()))


def run_layers(encoder: Any, inputs: dict[str, torch.Tensor], pack: Pack, firsts_only: bool = False) -> torch.Tensor:
    """Token states of a pack: [T, H], or of each window's first token: [W, H].

    Args:
        encoder: A base model that `runs_here`.
        inputs: Its inputs, [1, T] each.
        pack: The windows.
        firsts_only: Only the windows' first tokens are wanted.
    """
    states_TH = pack.pad(embed_tokens(encoder, inputs)[0])
    *lower, last = find_layers(encoder)
    for layer in lower:
        states_TH = _run_layer(encoder.config, layer, states_TH, pack)
    states_QH = _run_layer(encoder.config, last, states_TH, pack, firsts_only)
    return states_QH if firsts_only else states_QH[: pack.num_tokens]


def _run_layer(
    config: Any, layer: LayerParts, states_TH: torch.Tensor, pack: Pack, firsts_only: bool = False
) -> torch.Tensor:
    if firsts_only and layer.takes_mean:
        asking_QH, attended_QH = pack.take_firsts(states_TH), _attend_alike(layer, states_TH, pack)
    else:
        asking_QH, attended_QH = _attend(config, layer, states_TH, pack, firsts_only)
    changed_QH = layer.attention_output(attended_QH)
    if layer.states_dropout is not None:
        changed_QH = layer.states_dropout(changed_QH)
    asking_QH = layer.attention_norm(changed_QH + asking_QH)
    inner = ACTIVATIONS[activation_name(config)](layer.up(asking_QH))
    normed: torch.Tensor = layer.output_norm(layer.output_dropout(layer.down(inner)) + asking_QH)
    return normed


def _attend_alike(layer: LayerParts, states_TH: torch.Tensor, pack: Pack) -> torch.Tensor:
    """What each window's tokens get of a layer that takes the mean: [W, H]; values' mean is the mean's value."""
    *_, value = layer.query_key_value
    attended_WH: torch.Tensor = value(pool_pack(states_TH, pack, "mean"))
    return attended_WH


def _attend(
    config: Any, layer: LayerParts, states_TH: torch.Tensor, pack: Pack, firsts_only: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states that go on, and what attention gives them."""
    dropout = layer.weights_dropout.p if layer.weights_dropout.training else 0.0
    asking_QH, query_QH, key_TH, value_TH = _ask(layer, states_TH, pack, firsts_only)
    parts = (part[: pack.num_tokens] for part in (query_QH, key_TH, value_TH))
    heads = (part.view(len(part), config.num_attention_heads, -1) for part in parts)
    attended_QH = Attending(pack, dropout, by_firsts=firsts_only).attend(*heads).flatten(1)
    return asking_QH, attended_QH if firsts_only else pack.pad(attended_QH)


def _ask(
    layer: LayerParts, states_TH: torch.Tensor, pack: Pack, firsts_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The states that go on and their queries, and all tokens' keys and values."""
    query, *others = layer.query_key_value
    if firsts_only:
        firsts_WH = pack.take_firsts(states_TH)
        key_TH, value_TH = _project(states_TH, *others)
        return firsts_WH, query(firsts_WH), key_TH, value_TH
    query_TH, key_TH, value_TH = _project(states_TH, query, *others)
    return states_TH, query_TH, key_TH, value_TH


def _project(states_TH: torch.Tensor, *modules: Any) -> tuple[torch.Tensor, ...]:
    """Several linear modules over the same input."""
    weight, bias = (torch.cat([getattr(module, name) for module in modules]) for name in ("weight", "bias"))
    return linear(states_TH, weight, bias).chunk(len(modules), dim=-1)


def _is_watched(module: Any) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or getattr(module, "gradient_checkpointing", False)
        or getattr(module, "_compiled_call_impl", None) is not None
    )
