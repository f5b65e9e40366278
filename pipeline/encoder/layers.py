"""What the layers of BERT-like encoders are made of: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import gelu, relu, silu

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": gelu,
    "gelu_new": lambda values: gelu(values, approximate="tanh"),
    "gelu_pytorch_tanh": lambda values: gelu(values, approximate="tanh"),
    "relu": relu,
    "silu": silu,
}
_ENDS_IN_MEAN_LAYER = "ends_in_mean_layer"  # in a configuration
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")


@dataclass(frozen=True)
class LayerParts:
    """A layer's modules, by what they do.

    `states_dropout` is None where a family drops nothing there. With `takes_mean` queries and keys are nothing, so that
    every token of a window attends to the same: the mean of the window's values.
    """

    query_key_value: tuple[Any, Any, Any]
    weights_dropout: Any
    attention_output: Any
    states_dropout: Any | None
    attention_norm: Any
    up: Any
    down: Any
    output_dropout: Any
    output_norm: Any
    takes_mean: bool = False

    @property
    def linears(self) -> tuple[Any, ...]:
        """What multiplies by a matrix."""
        return (*self.query_key_value, self.attention_output, self.up, self.down)


def has_known_layers(encoder: Any) -> bool:
    """Whether an encoder is made of such layers, and its linear modules are no adapters, which would be passed over."""
    config = encoder.config
    if config.model_type not in FAMILIES or activation_name(config) not in ACTIVATIONS:
        return False
    return all(type(module) is torch.nn.Linear for layer in find_layers(encoder) for module in layer.linears)


def activation_name(config: Any) -> str:
    """What a configuration calls the feed-forward part's activation."""
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def find_layers(encoder: Any) -> list[LayerParts]:
    """The layers of an encoder of a known family, the lowest first."""
    find_parts = _distilbert_parts if encoder.config.model_type == "distilbert" else _bert_parts
    *lower, last = (find_parts(layer) for layer in layer_list(encoder))
    return [*lower, replace(last, takes_mean=has_mean_layer(encoder.config))]


def has_mean_layer(config: Any) -> bool:
    """Whether an encoder's last layer only takes the mean."""
    return bool(getattr(config, _ENDS_IN_MEAN_LAYER, False))


def mark_mean_layer(config: Any, is_there: bool) -> None:
    """Note in a configuration that an encoder got such a layer, or lost it."""
    config.num_hidden_layers += 1 if is_there else -1
    if is_there:
        setattr(config, _ENDS_IN_MEAN_LAYER, True)
    else:
        delattr(config, _ENDS_IN_MEAN_LAYER)


def layer_list(encoder: Any) -> torch.nn.ModuleList:
    """The modules of those layers, in the encoder's own list."""
    stack = encoder.transformer if encoder.config.model_type == "distilbert" else encoder.encoder
    layers: torch.nn.ModuleList = stack.layer
    return layers


def embed_tokens(encoder: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the lowest layer takes: [1, T, H]."""
    states: torch.Tensor = encoder.embeddings(**inputs)
    project = getattr(encoder, "embeddings_project", None)  # ELECTRA's may be narrower than its layers
    if project is not None:
        states = project(states)
    return states


def _bert_parts(layer: Any) -> LayerParts:
    attention = layer.attention
    return LayerParts(
        query_key_value=(attention.self.query, attention.self.key, attention.self.value),
        weights_dropout=attention.self.dropout,
        attention_output=attention.output.dense,
        states_dropout=attention.output.dropout,
        attention_norm=attention.output.LayerNorm,
        up=layer.intermediate.dense,
        down=layer.output.dense,
        output_dropout=layer.output.dropout,
        output_norm=layer.output.LayerNorm,
    )


def _distilbert_parts(layer: Any) -> LayerParts:
    attention = layer.attention
    return LayerParts(
        query_key_value=(attention.q_lin, attention.k_lin, attention.v_lin),
        weights_dropout=attention.dropout,
        attention_output=attention.out_lin,
        states_dropout=None,
        attention_norm=layer.sa_layer_norm,
        up=layer.ffn.lin1,
        down=layer.ffn.lin2,
        output_dropout=layer.ffn.dropout,
        output_norm=layer.output_layer_norm,
    )
