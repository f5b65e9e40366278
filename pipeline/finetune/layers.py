"""Where an encoder's weights stand, from the embeddings up: what is frozen, reset, recomputed, or slower to learn."""

from __future__ import annotations

import os
import re
import shutil
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModel

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.layers import has_mean_layer
from pipeline.encoder.packed_attention import PACKED, packed_attention
from pipeline.errors import ComputeError, Problem, SpecError
from pipeline.finetune.spec import TrainingConfig

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)(?:\.|$)")
_WHOLE_LAYER = re.compile(r"(?:.*[._])?layers?\.\d+")
_BELOW_ALL_LAYERS = ("emb", "relative_attention_bias")


def find_height(name: str, num_layers: int) -> int:
    """How high an encoder's weight stands: 0 for embeddings, 1 for the lowest layer, above the last for a pooler.

    Args:
        name: The weight's (or module's) name within the encoder.
        num_layers: Layers of the encoder.
    """
    found = _LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if any(part in name for part in _BELOW_ALL_LAYERS) else num_layers + 1


def count_layers(config: Any) -> int:
    """Layers that a configuration gives a model; one that only takes the mean stands above them, like a pooler."""
    return int(config.num_hidden_layers) - has_mean_layer(config)


def find_layers(encoder: Any) -> list[torch.nn.Module]:
    """An encoder's layers, from the lowest up; one that is used again and again (ALBERT) stands once."""
    return [module for name, module in encoder.named_modules() if _WHOLE_LAYER.fullmatch(name)]


def freeze_layers(joined: JoinedHeads, num_frozen: int) -> None:
    """Keep the embeddings and so many of the lowest layers as they are."""
    num_layers = count_layers(joined.encoder.config)
    for name, parameter in joined.encoder.named_parameters():
        if find_height(name, num_layers) <= num_frozen:
            parameter.requires_grad_(False)


def reset_layers(joined: JoinedHeads, num_reset: int) -> None:
    """Give so many of the highest layers fresh weights, drawn as for a model that was never trained."""
    encoder = joined.encoder
    num_layers = count_layers(encoder.config)
    for name, module in encoder.named_modules():
        if num_layers - num_reset < find_height(name, num_layers) <= num_layers:
            for owned in (module, *module.parameters(recurse=False)):
                owned._is_hf_initialized = False  # or transformers leaves loaded weights as they are
            with torch.no_grad():
                encoder._init_weights(module)


def recompute_layers(joined: JoinedHeads) -> None:
    """Keep each layer's input alone in memory, and compute the layer again in the backward pass."""
    encoder = joined.encoder
    encoder.activation_checkpointing_enable({"use_reentrant": False})
    encoder.disable_input_require_grads()  # or the backward pass goes through layers that are frozen


def compile_layers(joined: JoinedHeads, device: torch.device) -> None:
    """Let torch's compiler make the code of each layer, for any number of tokens.

    Attention over packs is left as it is: the rectangles of a pack differ with every batch, and each kind would be
    compiled anew.

    Raises:
        ComputeError: layers compute on the CPU, and there is no C++ compiler on this machine.
    """
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in names):
        raise ComputeError(
            "compute.compile needs a C++ compiler on every worker, and this one has none",
            "install g++, or leave compute.compile out",
        )
    leave_alone: Any = torch.compiler.disable
    AttentionInterface.register(PACKED, leave_alone(packed_attention))
    for layer in find_layers(joined.encoder):
        layer.compile(dynamic=True)


def check_recomputing(encoder: str, recipe: TrainingConfig, source: str) -> None:
    """Make sure that an encoder's layers can be computed again, where a recipe asks for it.

    Raises:
        SpecError: they cannot.
    """
    if not recipe.gradient_checkpointing:
        return
    config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    if not AutoModel._model_mapping[type(config)].supports_gradient_checkpointing:
        found = f"true, and {config.model_type}'s layers in transformers cannot be computed again"
        remedy = "leave it out; a lower training.micro_batch_tokens saves memory too"
        raise SpecError(source, (Problem("training.gradient_checkpointing", found, "false", remedy),))


def check_layers(encoder: str, recipe: TrainingConfig, source: str) -> None:
    """Make sure an encoder has the layers that a recipe speaks of, from its configuration alone.

    Raises:
        SpecError: it has fewer, or its layers share their weights.
    """
    asked = {"freeze_layers": recipe.freeze_layers or 0, "reset_layers": recipe.reset_layers}
    if recipe.freeze_layers is None and not recipe.reset_layers and recipe.layer_decay == 1:
        return
    config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    if hasattr(config, "num_hidden_groups"):
        found = f"{config.model_type} uses one layer's weights again and again"
        fields = "training.freeze_layers, reset_layers, layer_decay"
        raise SpecError(source, (Problem(fields, found, "an encoder with layers of their own"),))
    num_layers = count_layers(config)
    problems = [
        Problem(f"training.{field}", f"holds {value}", f"at most the encoder's {num_layers} layers")
        for field, value in asked.items()
        if value > num_layers
    ]
    if problems:
        raise SpecError(source, tuple(problems))
