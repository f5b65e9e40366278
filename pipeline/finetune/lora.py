"""Low-rank adapters (LoRA): the encoder's matrices stay as they are, and beside each a small product of two is learned.

Needs the package peft, and only where a recipe asks for it. Once trained, the products are added to the matrices, so a
bundle holds plain weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel

from pipeline.encoder.heads import JoinedHeads
from pipeline.errors import Problem, SpecError
from pipeline.extras import check_extra
from pipeline.finetune.mean_layer import is_in_mean_layer
from pipeline.finetune.spec import LoraConfig

_IN_A_LAYER = re.compile(r"\.\d+\.")


def find_targets(encoder: Any, wanted: Literal["auto"] | Sequence[str]) -> dict[str, torch.nn.Linear]:
    """The linear modules of an encoder's layers that get adapters, by their names within the encoder.

    Args:
        encoder: A base model.
        wanted: The ends of their names (`query`, `attention.output.dense`); auto: all there are.
    """
    linear = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and _IN_A_LAYER.search(f".{name}")
    }
    if wanted == "auto":
        return linear
    return {name: module for name, module in linear.items() if any(_ends_with(name, end) for end in wanted)}


def check_lora(encoder: str, lora: LoraConfig | None, source: str) -> None:
    """Make sure that adapters can be put where a recipe wants them, from the encoder's configuration alone.

    Raises:
        InputError: peft is not installed.
        SpecError: there are no such modules, or they are smaller than their adapters.
    """
    if lora is None:
        return
    check_extra("training.lora needs", "lora", {"peft": "peft"})
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(encoder, trust_remote_code=False))
    names = [] if lora.target_modules == "auto" else lora.target_modules
    known = sorted({_IN_A_LAYER.split(f".{name}")[-1] for name in find_targets(model, "auto")})
    problems = [
        Problem("training.lora.target_modules", f"names {name!r}", f"auto, or some of: {', '.join(known)}")
        for name in names
        if not find_targets(model, [name])
    ]
    targets = find_targets(model, lora.target_modules).values()
    smallest = min((min(module.in_features, module.out_features) for module in targets), default=lora.rank + 1)
    if lora.rank >= smallest:
        problems.append(
            Problem("training.lora.rank", f"holds {lora.rank}", f"less than the matrices' own {smallest}, such as 8")
        )
    if problems:
        raise SpecError(source, tuple(problems))


def add_adapters(joined: JoinedHeads, lora: LoraConfig) -> None:
    """Put adapters, drawn from torch's generator, beside an encoder's matrices.

    Of the encoder only they are trained from now on, and a pooler, which is part of the heads that use it.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model

    encoder = joined.encoder
    targets = find_targets(encoder, lora.target_modules)
    pooler = {id(weights) for name, weights in encoder.named_parameters() if name.startswith("pooler")}
    of_heads = [weights for weights in encoder.parameters() if id(weights) in pooler and weights.requires_grad]
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale,
        lora_dropout=lora.dropout,
        target_modules=[name for name in targets if not is_in_mean_layer(name, encoder.config)],
    )
    inject_adapter_in_model(config, encoder)
    for weights in of_heads:
        weights.requires_grad_(True)


def merge_adapters(joined: JoinedHeads) -> None:
    """Add what adapters have learned to the matrices beside them, and take them away."""
    from peft.tuners.lora import LoraLayer

    encoder = joined.encoder
    for name, module in list(encoder.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(encoder.get_submodule(parent), own, module.get_base_layer())
    del encoder.peft_config


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")
