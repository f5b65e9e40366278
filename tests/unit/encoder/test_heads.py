"""Several heads around one encoder, as one module to train."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from pipeline.encoder.forward import head_logits, lay_out
from pipeline.encoder.heads import HeadCall, JoinedHeads
from pipeline.encoder.model import EncoderModel
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.finetune.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.spec import TrainingConfig
from tests.unit.encoder.families import FAMILIES
from tests.unit.encoder.test_families import HEADS, RUNTIME, TEXTS, encoded
from tests.unit.encoder.test_sharing import family_networks

MEAN = EmbeddingOptions("mean", normalize=True)
SETS = [heads for size in (1, 2, 4) for heads in combinations(HEADS, size)]


def join(family: str, heads: tuple[str, ...] = tuple(HEADS), embedding: EmbeddingOptions = MEAN) -> JoinedHeads:
    networks = family_networks(family)
    return JoinedHeads({head: networks[head] for head in heads}, embedding)


def calls_of(family: str, joined: JoinedHeads, heads: tuple[str, ...] = tuple(HEADS)) -> dict[str, HeadCall]:
    """Every head gets all texts in one batch."""
    rows, padding = encoded(family, TEXTS)
    batch = lay_out(rows, np.arange(len(rows)), joined.encoder, padding, torch.device("cpu"))
    return {head: HeadCall(batch, seed=number) for number, head in enumerate(heads)}


def padded(family: str) -> dict[str, torch.Tensor]:
    """The same texts as transformers would take them."""
    inputs = FAMILIES[family].tokenizer()(TEXTS, padding=True, return_tensors="pt")
    return dict(inputs)


def num_weights(network: Any) -> int:
    return sum(weights.numel() for weights in network.parameters())


def with_dropout(joined: JoinedHeads) -> JoinedHeads:
    for module in joined.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    return joined.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_stand_around_one_and_the_same_encoder(family: str) -> None:
    joined = join(family)
    assert {id(joined.network(head).base_model) for head in HEADS} == {id(joined.encoder)}
    assert joined.network("none") is joined.encoder
    networks = family_networks(family).values()
    heads = sum(num_weights(network) - num_weights(network.base_model) for network in networks)
    assert num_weights(joined) == num_weights(joined.encoder) + heads


@pytest.mark.parametrize("family", FAMILIES)
def test_each_head_gives_what_its_network_gave_before(family: str) -> None:
    networks, joined = family_networks(family), join(family)
    calls = calls_of(family, joined)
    with torch.no_grad():
        outputs = joined.eval()(calls)
        inputs = padded(family)
        mask = inputs["attention_mask"].bool()
        for head in ("rows", "tokens", "spans"):
            expected = head_logits(networks[head](**inputs))
            assert expected is not None
            kept = mask if head != "rows" else torch.ones(len(expected), dtype=torch.bool)
            torch.testing.assert_close(outputs[head][kept], expected[kept], atol=1e-5, rtol=1e-5)
        states = networks["none"](**inputs)[0]
    means = torch.stack([row[kept].mean(dim=0) for row, kept in zip(states, mask, strict=True)])
    torch.testing.assert_close(outputs["none"], means, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_embeddings_are_pooled_as_asked_and_not_scaled(pooling: str) -> None:
    joined = join("xlnet", ("none",), EmbeddingOptions(pooling, normalize=True)).eval()
    call = calls_of("xlnet", joined, ("none",))["none"]
    with torch.no_grad():
        inputs = padded("xlnet")
        states = joined.encoder(**inputs)[0]
        outputs = joined({"none": call})["none"]
    for row, kept, vector in zip(states, inputs["attention_mask"].bool(), outputs, strict=True):
        own = row[kept]  # padding stands on the left
        torch.testing.assert_close(vector, own[0] if pooling == "cls" else own.amax(dim=0))


@pytest.mark.parametrize("heads", SETS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_to_train_gets_a_gradient_when_all_heads_are_called(family: str, heads: tuple[str, ...]) -> None:
    """What the exchange of gradients between ranks waits for."""
    joined = join(family, heads).train()
    outputs = joined(calls_of(family, joined, heads))
    sum(output.float().square().sum() for output in outputs.values()).backward()
    missing = [name for name, weights in joined.named_parameters() if weights.requires_grad and weights.grad is None]
    assert missing == []


@pytest.mark.parametrize("heads", SETS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pooler_is_frozen_unless_a_head_uses_it(family: str, heads: tuple[str, ...]) -> None:
    networks = family_networks(family)
    has_pooler = any(getattr(networks[head].base_model, "pooler", None) is not None for head in heads)
    used = [head for head in heads if head != "none" and getattr(networks[head].base_model, "pooler", None) is not None]
    joined = JoinedHeads({head: networks[head] for head in heads}, MEAN)
    pooler = getattr(joined.encoder, "pooler", None)
    assert (pooler is not None) == has_pooler
    if pooler is not None:
        assert {weights.requires_grad for weights in pooler.parameters()} == {bool(used)}
    frozen = [
        name for name, weights in joined.named_parameters() if not weights.requires_grad and "pooler." not in name
    ]
    assert [name.rsplit(".", 1)[-1] for name in frozen] == (["mask_emb"] if family == "xlnet" else [])


def test_the_seed_of_a_call_decides_its_dropout() -> None:
    joined = with_dropout(join("bert"))
    calls = calls_of("bert", joined)
    torch.manual_seed(1)
    first = joined(calls)
    torch.manual_seed(2)
    alone = {head: joined({head: call})[head] for head, call in reversed(calls.items())}
    for head in HEADS:
        assert torch.equal(first[head], alone[head])
    other = joined({head: HeadCall(call.batch, call.seed + 7) for head, call in calls.items()})
    assert not torch.equal(first["rows"], other["rows"])


def test_only_the_heads_that_are_called_answer() -> None:
    joined = join("bert")
    assert joined(calls_of("bert", joined, ("tokens",))).keys() == {"tokens"}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "albert", "xlnet"])
def test_a_checkpoint_holds_a_shared_encoder_once_and_brings_everything_back(family: str, tmp_path: Path) -> None:
    joined = join(family)
    with torch.no_grad():
        for weights in joined.parameters():
            weights.add_(torch.randn(weights.shape))
    save_checkpoint(tmp_path / "a", joined, {}, Progress(3, "run"))
    stored = load_file(tmp_path / "a" / "weights.safetensors")
    tensors = {id(value): value for value in joined.state_dict(keep_vars=True).values()}
    assert sum(value.numel() for value in stored.values()) == sum(value.numel() for value in tensors.values())
    restored = join(family)
    before = restored.encoder
    load_checkpoint(tmp_path / "a", restored, make_optimizer(restored, TrainingConfig()), "run")
    expected, found = joined.state_dict(), restored.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {id(restored.network(head).base_model) for head in HEADS} == {id(before)}


def test_a_head_scores_with_what_was_trained() -> None:
    joined = join("bert").eval()
    rows, padding = encoded("bert", TEXTS)
    with torch.no_grad():
        joined.encoder.embeddings.word_embeddings.weight.mul_(0.5)
        outputs = joined(calls_of("bert", joined))
    for head in HEADS:
        model = EncoderModel([joined.head(head)], RUNTIME, padding)
        (scored,) = model.run(rows)
        if head == "none":
            units = torch.nn.functional.normalize(outputs["none"], dim=-1).numpy()
            np.testing.assert_allclose(scored.embeddings, units, atol=1e-5)
        if head == "rows":
            np.testing.assert_allclose(scored.logits, outputs["rows"].numpy(), atol=1e-5)
    assert {id(joined.network(head).base_model) for head in HEADS} == {id(joined.encoder)}


def test_a_bundle_network_saved_from_joined_heads_is_whole(tmp_path: Path) -> None:
    joined = join("bert")
    for head, head_class in HEADS.items():
        joined.network(head).save_pretrained(tmp_path / head, safe_serialization=True)
        again = getattr(transformers, head_class).from_pretrained(tmp_path / head)
        calls = calls_of("bert", joined, (head,))
        with torch.no_grad():
            expected = joined.eval()(calls)[head]
            inputs = padded("bert")
            output = again.eval()(**inputs)
        found = head_logits(output)
        if found is None:
            mask = inputs["attention_mask"].unsqueeze(-1)
            found = (output[0] * mask).sum(dim=1) / mask.sum(dim=1)
        elif head != "rows":
            found = found * inputs["attention_mask"].unsqueeze(-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
