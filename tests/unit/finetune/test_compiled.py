"""Layers that torch compiles compute what they did before, whatever a batch's size, and leave the same weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

from pipeline.encoder.packed_attention import PACKED, packed_attention
from pipeline.errors import ComputeError
from pipeline.finetune.layers import compile_layers
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.step import StepContext, run_step
from tests.unit.finetune.training import context_for, join, token_data, weights_of

CPU = torch.device("cpu")
NUM_STEPS = 4


def run_steps(context: StepContext) -> list[tuple[float, float]]:
    """Losses and gradient norms of steps of 8, 9, 10, ... rows."""
    optimizer, draw = make_optimizer(context.joined, context.config), np.random.default_rng(0)
    batches = [draw.permutation(64)[: 8 + step] for step in range(NUM_STEPS)]
    results = [run_step(context, optimizer, batch, batch, step) for step, batch in enumerate(batches)]
    return [(result.loss, result.grad_norm) for result in results]


@pytest.fixture(scope="module")
def contexts(tokenizer: Any) -> Any:
    """As it is, and compiled; compiling here, for the compiler may sleep."""
    torch.set_num_threads(1)
    data = token_data(tokenizer, 64)
    plain, compiled = (context_for(data, micro_batch_tokens=100) for _ in range(2))
    compile_layers(compiled.joined, CPU)
    results = {"plain": run_steps(plain), "compiled": run_steps(compiled)}
    yield {"plain": plain, "compiled": compiled}, results
    AttentionInterface.register(PACKED, packed_attention)


@pytest.mark.slow
def test_steps_of_compiled_layers_are_those_of_plain_ones(contexts: Any) -> None:
    by_name, results = contexts
    np.testing.assert_allclose(results["compiled"], results["plain"], rtol=1e-5, atol=1e-6)
    weights = {name: weights_of(context.joined) for name, context in by_name.items()}
    assert weights["compiled"].keys() == weights["plain"].keys()
    for name, value in weights["plain"].items():
        if not name.endswith(".key.bias"):  # their gradients are rounding alone
            torch.testing.assert_close(weights["compiled"][name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_every_layer_is_compiled_and_a_copy_of_the_network_is_not(contexts: Any) -> None:
    joined = contexts[0]["compiled"].joined
    layers = joined.encoder.encoder.layer
    assert len(layers) == 2
    assert all(layer._compiled_call_impl is not None for layer in layers)
    assert all(layer._compiled_call_impl is None for layer in copy.deepcopy(joined).encoder.encoder.layer)


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.finetune.layers.shutil.which", lambda name: None)
    with pytest.raises(ComputeError, match=r"compute\.compile needs a C\+\+ compiler"):
        compile_layers(join(), CPU)
