"""The layers for inference give what transformers' own give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from pipeline.encoder import fast
from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.fast import FastEncoder
from pipeline.encoder.forward import lay_out
from pipeline.encoder.layers import ACTIVATIONS as ACTIVATIONS_KNOWN
from pipeline.encoder.model import EncoderModel, Head
from pipeline.encoder.outputs import EmbeddingOptions
from tests.unit.encoder.families import FAMILIES
from tests.unit.encoder.test_families import HEADS, OTHERS, TEXTS, encoded

CPU = torch.device("cpu")
FAST = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


def test_families_that_are_not_described_keep_their_own_layers() -> None:
    networks = {name: family.network("AutoModel") for name, family in FAMILIES.items()}
    assert tuple(name for name, network in networks.items() if FastEncoder.fits(network)) == FAST
    odd = networks["bert"]
    odd.config.hidden_act = "mish"
    assert not FastEncoder.fits(odd)
    networks["roberta"].set_attn_implementation("sdpa")
    assert not FastEncoder.fits(networks["roberta"])


def states_of(network: Any, family: str, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a pack: by our layers in fp32, and by transformers'."""
    rows, padding = encoded(family, TEXTS, OTHERS)
    with torch.inference_mode():
        batch = lay_out(rows, np.array(indices), network, padding, CPU)
        return FastEncoder(network, torch.float32)(batch)[0], network(**batch.inputs, pack=batch.pack)[0]


@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [3], [2, 2, 0]])
@pytest.mark.parametrize("family", FAST)
def test_token_states_are_those_of_transformers(family: str, indices: list[int]) -> None:
    ours, theirs = states_of(FAMILIES[family].network("AutoModel"), family, indices)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def with_activation(name: str) -> Any:
    network = FAMILIES["bert"].network("AutoModel")
    network.config.hidden_act = name
    for layer in network.encoder.layer:
        layer.intermediate.intermediate_act_fn = ACT2FN[name]
    return network


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_one_that_transformers_means(
    name: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(ACTIVATIONS) == set(ACTIVATIONS_KNOWN) == set(fast._FUSED_ACTIVATIONS)
    if not fused:  # as on a GPU
        monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    ours, theirs = states_of(with_activation(name), "bert", [0, 1, 2])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAST)
def test_in_bf16_every_head_stays_near_fp32(family: str, head: str) -> None:
    network = FAMILIES[family].network(HEADS[head])
    rows, padding = encoded(family, TEXTS)
    outputs = []
    for bf16 in (True, False):
        runtime = Runtime(CPU, torch.bfloat16 if bf16 else None, BatchBudget(tokens=100, rows=8))
        model = EncoderModel([Head(network, EmbeddingOptions("mean", normalize=True))], runtime, padding)
        assert (model._fast is not None) == bf16
        outputs.append(model.run(rows)[0])
    half, whole = outputs
    assert ((half.embeddings * whole.embeddings).sum(axis=1) > 0.999).all()
    scale = np.abs(whole.logits).max(initial=1.0)
    np.testing.assert_allclose(half.logits, whole.logits, atol=0.1 * scale)
    assert not np.array_equal(half.embeddings, whole.embeddings)


def test_a_cpu_without_bf16_kernels_gets_the_layers_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any) -> Any:
        raise AssertionError("oneDNN would refuse")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    rows, padding = encoded("bert", TEXTS, OTHERS)
    network = FAMILIES["bert"].network("AutoModel")
    with torch.inference_mode():
        batch = lay_out(rows, np.array([0, 1, 2]), network, padding, CPU)
        half, whole = FastEncoder(network, torch.bfloat16)(batch)[0], network(**batch.inputs, pack=batch.pack)[0]
        assert half.dtype is torch.bfloat16
        torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)
        with pytest.raises(AssertionError, match="oneDNN would refuse"):
            FastEncoder(network, torch.float32)  # which oneDNN has everywhere


def test_weights_are_those_of_the_moment() -> None:
    network = FAMILIES["bert"].network("AutoModel")
    before, _ = states_of(network, "bert", [0])
    with torch.no_grad():
        network.encoder.layer[1].output.dense.weight.mul_(0.5)
    after, theirs = states_of(network, "bert", [0])
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, theirs, atol=1e-5, rtol=1e-5)
