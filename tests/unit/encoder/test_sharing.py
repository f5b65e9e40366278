"""Several heads in one forward pass give what each network gives whole: for every family and every head."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.model import EncoderModel, Head, shares_encoder
from pipeline.encoder.outputs import EmbeddingOptions, ModelOutputs
from pipeline.encoder.tokenize import TokenRows
from tests.unit.encoder.families import FAMILIES
from tests.unit.encoder.test_families import HEADS, OTHERS, RUNTIME, TEXTS, encoded

POOLING = {
    "rows": EmbeddingOptions("mean", normalize=False),
    "tokens": EmbeddingOptions("cls", normalize=False),
    "spans": EmbeddingOptions("max", normalize=True),
    "none": EmbeddingOptions("mean", normalize=True),
}
ORDERS = (("rows", "tokens", "spans", "none"), ("none", "spans", "tokens", "rows"))


def family_networks(family: str) -> dict[str, Any]:
    """A network for each head, all with the same encoder weights (each its own copy), as bundles of one run have."""
    networks = {head: FAMILIES[family].network(head_class, seed=3) for head, head_class in HEADS.items()}
    weights = networks["none"].base_model.state_dict()
    for network in networks.values():
        network.base_model.load_state_dict(weights, strict=False)
    return networks


def run_together(networks: dict[str, Any], order: tuple[str, ...], rows: TokenRows, padding: Any) -> dict[str, Any]:
    model = EncoderModel([Head(networks[name], POOLING[name]) for name in order], RUNTIME, padding)
    return dict(zip(order, model.run(rows), strict=True))


def pooled(states_SH: torch.Tensor, options: EmbeddingOptions) -> np.ndarray:
    states = states_SH.double()
    vector = {"mean": states.mean(dim=0), "cls": states[0], "max": states.amax(dim=0)}[options.pooling]
    return (vector / vector.norm() if options.normalize else vector).numpy()


@dataclass(frozen=True)
class Whole:
    """What transformers makes of one row: logits (rows: [C], tokens: [S, C]) and the last hidden states [S, H]."""

    logits: np.ndarray
    states_SH: torch.Tensor


def run_whole(family: str, network: Any, texts: tuple[str, ...]) -> Whole:
    inputs = FAMILIES[family].tokenizer()(*([text] for text in texts), return_tensors="pt")
    with torch.no_grad():
        output = network(**inputs, output_hidden_states=True)
    if "start_logits" in output:
        logits = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1).numpy()
    else:
        logits = output.logits[0].numpy() if "logits" in output else np.zeros(0, np.float32)
    return Whole(logits, output.hidden_states[-1][0])


def assert_whole(outputs: ModelOutputs, rows: TokenRows, head: str, index: int, whole: Whole) -> None:
    over_tokens = head in ("tokens", "spans")
    part = slice(int(rows.offsets[index]), int(rows.offsets[index + 1])) if over_tokens else index
    np.testing.assert_allclose(outputs.logits[part], whole.logits, atol=1e-4)
    np.testing.assert_allclose(outputs.embeddings[index], pooled(whole.states_SH, POOLING[head]), atol=1e-4)


@pytest.mark.parametrize("with_pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_together_give_what_each_network_gives_whole(family: str, with_pairs: bool) -> None:
    texts = (TEXTS, OTHERS) if with_pairs else (TEXTS,)
    networks = family_networks(family)
    rows, padding = encoded(family, *texts)
    expected = {
        head: [run_whole(family, network, row) for row in zip(*texts, strict=True)]
        for head, network in networks.items()
    }
    for order in ORDERS:
        outputs = run_together(networks, order, rows, padding)
        for head, wholes in expected.items():
            assert outputs[head].finite.all()
            for index, whole in enumerate(wholes):
                assert_whole(outputs[head], rows, head, index, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_are_whole_afterwards_around_one_encoder(family: str) -> None:
    networks = family_networks(family)
    rows, padding = encoded(family, TEXTS)
    weights = {head: copy.deepcopy(network.state_dict()) for head, network in networks.items()}
    before = {head: run_whole(family, network, (TEXTS[0],)) for head, network in networks.items()}
    first = run_together(networks, ORDERS[0], rows, padding)
    assert len({id(network.base_model) for head, network in networks.items() if head != "none"}) == 1
    for head, network in networks.items():
        after = network.state_dict()
        assert {name for name in after.keys() ^ weights[head].keys() if "pooler." not in name} == set()
        assert all(torch.equal(after[name], value) for name, value in weights[head].items())
        again = run_whole(family, network, (TEXTS[0],))
        np.testing.assert_array_equal(again.logits, before[head].logits)
        assert torch.equal(again.states_SH, before[head].states_SH)
    second = run_together(networks, ORDERS[0], rows, padding)
    for head in networks:
        np.testing.assert_array_equal(second[head].logits, first[head].logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_runs_once_a_batch_whatever_the_heads(family: str) -> None:
    networks = family_networks(family)
    rows, padding = encoded(family, TEXTS)
    calls: list[str] = []
    for head, network in networks.items():
        network.base_model.register_forward_hook(lambda *_call, head=head: calls.append(head))
    outputs = run_together(networks, ORDERS[0], rows, padding)
    assert len(calls) == 1
    assert len({result.num_padded_tokens for result in outputs.values()}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_the_same_weights_share_an_encoder_whether_they_have_a_pooler_or_not(family: str) -> None:
    networks = family_networks(family)
    for one in networks.values():
        for other in networks.values():
            assert shares_encoder(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_weight_anywhere_in_the_encoder_is_another_encoder(family: str) -> None:
    networks = family_networks(family)
    names = [name for name, value in networks["rows"].base_model.state_dict().items() if value.is_floating_point()]
    for name in (names[0], names[len(names) // 2], names[-1]):
        changed = copy.deepcopy(networks["rows"])
        with torch.no_grad():
            changed.base_model.state_dict()[name].view(-1)[-1] += 1e-3
        assert not shares_encoder(networks["rows"], changed), name
        assert not shares_encoder(changed, networks["rows"]), name


def test_a_changed_head_is_not_a_changed_encoder() -> None:
    networks = family_networks("bert")
    with torch.no_grad():
        networks["rows"].classifier.weight += 1
    assert shares_encoder(networks["rows"], networks["none"])


def test_another_family_is_another_encoder() -> None:
    everyone = {family: FAMILIES[family].network("AutoModel") for family in FAMILIES}
    for family, network in everyone.items():
        assert [name for name, other in everyone.items() if shares_encoder(network, other)] == [family]


def test_weights_of_other_shapes_are_another_encoder() -> None:
    family = FAMILIES["bert"]
    wider = copy.deepcopy(family.network("AutoModel"))
    wider.resize_token_embeddings(len(family.tokenizer()) + 1)
    assert not shares_encoder(family.network("AutoModel"), wider)


@pytest.mark.parametrize("change", [{"num_attention_heads": 4}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.5}])
def test_the_same_weights_used_otherwise_are_another_encoder(change: dict[str, Any]) -> None:
    """What a forward pass makes of weights is in the configuration too."""
    network = FAMILIES["bert"].network("AutoModel")
    config = copy.deepcopy(network.config)
    for name, value in change.items():
        setattr(config, name, value)
    other = type(network)(config)
    other.load_state_dict(network.state_dict())
    assert not shares_encoder(network, other.eval())


def test_a_row_that_fails_for_one_head_stands_for_the_others() -> None:
    networks = family_networks("bert")
    rows, padding = encoded("bert", TEXTS)
    plain = run_together(networks, ORDERS[0], rows, padding)

    def spoil(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output[:, 3] = float("nan")  # the fourth token of the pack: it is the longest row's
        return output

    networks["tokens"].classifier.register_forward_hook(spoil)
    outputs = run_together(networks, ORDERS[0], rows, padding)
    assert outputs["tokens"].finite.tolist() == (rows.lengths < rows.lengths.max()).tolist()
    assert 0 < outputs["tokens"].finite.sum() < len(rows)
    for head in ("rows", "spans", "none"):
        assert outputs[head].finite.all()
        np.testing.assert_array_equal(outputs[head].logits, plain[head].logits)
