from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AlbertConfig, AutoModel, DistilBertConfig, ElectraConfig, ModernBertConfig, XLNetConfig

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.model import load_network
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.errors import SpecError
from pipeline.finetune.layers import check_layers, find_height, freeze_layers, reset_layers
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.spec import TrainingConfig
from tests.tiny import make_encoder, tiny_config
from tests.unit.finetune.training import join, weights_of

SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
FAMILIES = {
    "bert": tiny_config(),
    "distilbert": DistilBertConfig(dim=8, n_heads=2, hidden_dim=16, n_layers=2, vocab_size=20),
    "electra": ElectraConfig(**SMALL, embedding_size=4, num_hidden_layers=2),
    "modernbert": ModernBertConfig(**SMALL, num_hidden_layers=2, pad_token_id=0),
    "xlnet": XLNetConfig(d_model=8, n_head=2, d_inner=16, n_layer=2, vocab_size=20),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_layer_is_found(family: str) -> None:
    """Whatever a family calls them, the two layers have the same weights, and the embeddings are below."""
    encoder = AutoModel.from_config(FAMILIES[family])
    heights: dict[int, int] = {}
    for name, _ in encoder.named_parameters():
        height = find_height(name, 2)
        heights[height] = heights.get(height, 0) + 1
    assert set(heights) >= {0, 1, 2}
    assert 0 <= heights[2] - heights[1] <= 1  # ModernBERT's first layer has no norm before its attention
    assert find_height(next(name for name, _ in encoder.named_parameters()), 2) == 0


def changed_by(joined: JoinedHeads, before: dict[str, torch.Tensor]) -> set[str]:
    after = weights_of(joined.network(""))
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize(("num_frozen", "top"), [(0, -1), (1, 0), (2, 1)])
def test_frozen_layers_do_not_train(num_frozen: int, top: int) -> None:
    joined = join()
    freeze_layers(joined, num_frozen)
    for name, parameter in joined.network("").named_parameters():
        is_low = ".embeddings." in name or any(f".layer.{layer}." in name for layer in range(top + 1))
        assert parameter.requires_grad is not is_low, name


def test_reset_layers_are_as_if_never_trained(tmp_path: Path) -> None:
    """Loaded from disk, as transformers marks loaded weights and then leaves them alone."""
    network = load_network(make_encoder(tmp_path / "e"), "AutoModelForSequenceClassification")
    joined = JoinedHeads({"": network}, EmbeddingOptions("mean", normalize=True))
    before = weights_of(network)
    reset_layers(joined, 1)
    changed = changed_by(joined, before)
    matrices = {name for name, tensor in before.items() if ".layer.1." in name and tensor.ndim > 1}
    assert matrices
    assert matrices <= changed
    assert all(".layer.1." in name for name in changed)
    assert float(before[min(matrices)].std()) == pytest.approx(0.2, rel=0.2)
    assert float(weights_of(network)[min(matrices)].std()) == pytest.approx(0.2, rel=0.2)


def test_no_layer_is_reset_where_none_is_asked_for() -> None:
    joined = join()
    before = weights_of(joined.network(""))
    reset_layers(joined, 0)
    assert changed_by(joined, before) == set()


def test_lower_layers_learn_more_slowly() -> None:
    joined = join()
    config = TrainingConfig(learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in make_optimizer(joined, config).param_groups for p in group["params"]}
    expected = {"embeddings": 2.5e-4, "layer.0": 5e-4, "layer.1": 1e-3, "pooler": 1e-3, "classifier": 1e-2}
    for name, parameter in joined.network("").named_parameters():
        (part,) = [part for part in expected if part in name]
        assert rates[id(parameter)] == pytest.approx(expected[part]), name


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"freeze_layers": 3}, r"training\.freeze_layers: holds 3; expected at most the encoder's 2 layers"),
        ({"reset_layers": 3}, r"training\.reset_layers: holds 3; expected at most the encoder's 2 layers"),
    ],
)
def test_more_layers_than_there_are_is_an_error(recipe: dict[str, Any], message: str, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "e")
    check_layers(encoder, TrainingConfig(freeze_layers=2, reset_layers=2), "spec.yaml")
    with pytest.raises(SpecError, match=message):
        check_layers(encoder, TrainingConfig(**recipe), "spec.yaml")


@pytest.mark.parametrize("recipe", [{"freeze_layers": 0}, {"reset_layers": 1}, {"layer_decay": 0.9}])
def test_layers_that_share_their_weights_are_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(AlbertConfig().to_dict()))
    check_layers(str(tmp_path), TrainingConfig(), "spec.yaml")
    with pytest.raises(SpecError, match="albert uses one layer's weights again and again"):
        check_layers(str(tmp_path), TrainingConfig(**recipe), "spec.yaml")
