"""Gradient checkpointing: the same gradients, from layers that are computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.encoder.forward import takes_packs
from pipeline.errors import SpecError
from pipeline.finetune.layers import check_recomputing, freeze_layers, recompute_layers
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.step import run_step
from tests.unit.encoder.families import FAMILIES
from tests.unit.finetune.training import context_for, gradients_of, token_data

BATCH = np.arange(3, 19)
PACKED = {"bert": True, "roberta": True, "distilbert": True, "electra": True, "modernbert": True, "deberta-v2": False}


def step(family: str, recompute: bool, dropout: float = 0.0, num_frozen: int = 0) -> tuple[Any, dict[str, int]]:
    """The network after one step, and how often each of its layers ran."""
    network = FAMILIES[family].network("AutoModelForSequenceClassification")
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    data = token_data(FAMILIES[family].tokenizer(), 20)
    data.targets.values[:] %= network.num_labels
    context = context_for(data, network, micro_batch_tokens=60)
    assert takes_packs(network.base_model) is PACKED[family]
    if num_frozen:
        freeze_layers(context.joined, num_frozen)
    if recompute:
        recompute_layers(context.joined)
    runs: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            inside = next(part for part in module.modules() if isinstance(part, torch.nn.Linear))
            inside.register_forward_hook(count(runs, name))
    run_step(context, torch.optim.SGD(network.parameters(), lr=0.1), BATCH, BATCH, seed=4)
    return network, runs


def count(runs: dict[str, int], name: str) -> Callable[..., None]:
    def note(*_: Any) -> None:
        runs[name] = runs.get(name, 0) + 1

    return note


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", PACKED)
def test_gradients_are_the_same_and_layers_run_twice(family: str, dropout: float) -> None:
    plain, once = step(family, recompute=False, dropout=dropout)
    again, twice = step(family, recompute=True, dropout=dropout)
    assert len(once) == 2
    assert twice == {name: 2 * runs for name, runs in once.items()}
    expected, found = gradients_of(plain), gradients_of(again)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_frozen_layers_are_not_computed_again() -> None:
    _, once = step("bert", recompute=False, num_frozen=1)
    network, runs = step("bert", recompute=True, num_frozen=1)
    low, high = sorted(runs)
    assert (runs[low], runs[high]) == (once[low], 2 * once[high])
    assert not any(".layer.0." in name for name in gradients_of(network))


@pytest.mark.parametrize("family", ["albert", "mpnet"])
def test_families_that_cannot_are_named(family: str, tmp_path: Path) -> None:
    FAMILIES[family].network("AutoModel").save_pretrained(tmp_path)
    with pytest.raises(SpecError, match=f"gradient_checkpointing.*{family}"):
        check_recomputing(str(tmp_path), TrainingConfig(gradient_checkpointing=True), "spec")


@pytest.mark.parametrize("family", PACKED)
def test_families_that_can_are_not_refused(family: str, tmp_path: Path) -> None:
    FAMILIES[family].network("AutoModel").save_pretrained(tmp_path)
    assert check_recomputing(str(tmp_path), TrainingConfig(gradient_checkpointing=True), "spec") is None
