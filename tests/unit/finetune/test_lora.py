"""Adapters: what of an encoder they stand beside, what is trained, packs, resuming, and plain weights at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForSequenceClassification

from pipeline.config import parse_spec
from pipeline.encoder.fast import FastEncoder
from pipeline.encoder.forward import encode, lay_out, takes_packs
from pipeline.encoder.model import load_network, shares_encoder
from pipeline.errors import InputError, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.layers import recompute_layers
from pipeline.finetune.loop import evaluate, train
from pipeline.finetune.lora import add_adapters, check_lora, find_targets, merge_adapters
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec, LoraConfig, TrainingConfig
from pipeline.finetune.step import run_step
from pipeline.finetune.token_cache import TokenData
from pipeline.finetune.vocabulary import widen_vocabulary
from pipeline.finetune.worker import build_job
from tests.tiny import make_encoder, make_network, write_corpus
from tests.unit.encoder.families import FAMILIES
from tests.unit.encoder.test_families import HEADS, OTHERS, TEXTS, encoded
from tests.unit.encoder.test_packing import CPU, ORDERS, PACKABLE, run
from tests.unit.finetune.training import (
    Notes,
    context_for,
    gradients_of,
    job_for,
    join,
    same_weights,
    token_data,
    weights_of,
)

LORA = LoraConfig(rank=4, dropout=0.1)
MATRICES_OF_A_LAYER = {
    "xlnet": 2,
    "modernbert": 4,
}  # XLNet's attention holds bare tensors; others: q, k, v, o, two more
BATCH = np.arange(3, 19)


def adapted(network: Any, lora: LoraConfig = LORA, seed: int = 1) -> Any:
    """The network with adapters that change something: as they start, one of their two matrices is zero."""
    joined = join(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_adapters(joined, lora)
        for name, weights in joined.encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.3)
    return joined


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_every_layer_gets_an_adapter_and_they_alone_are_trained(family: str) -> None:
    network = FAMILIES[family].network(HEADS["rows"])
    num_layers = 1 if family == "albert" else 2
    assert len(find_targets(network.base_model, "auto")) == num_layers * MATRICES_OF_A_LAYER.get(family, 6)
    heads_own = {name for name, weights in join(network).network("").named_parameters() if weights.requires_grad}
    heads_own = {name for name in heads_own if not name.startswith(network.base_model_prefix) or ".pooler." in name}
    assert heads_own
    joined = adapted(network)
    trained = {name for name, weights in joined.network("").named_parameters() if weights.requires_grad}
    assert {name for name in trained if "lora_" not in name} == heads_own
    assert len(trained - heads_own) == 2 * num_layers * MATRICES_OF_A_LAYER.get(family, 6)


@pytest.mark.parametrize("head", ["rows", "tokens", "mean"])
@pytest.mark.parametrize("family", PACKABLE)
def test_a_pack_gives_the_outputs_and_gradients_of_a_padded_batch(family: str, head: str) -> None:
    network = FAMILIES[family].network(HEADS.get(head, "AutoModel"))
    rows, padding = encoded(family, TEXTS, OTHERS)
    plain, _ = run(network, head, rows, ORDERS["mixed"], padding)
    adapted(network, LoraConfig(rank=4)).eval()
    packed, packed_gradients = run(network, head, rows, ORDERS["mixed"], padding)
    assert takes_packs(network.base_model)
    network.set_attn_implementation("sdpa")
    padded, gradients = run(network, head, rows, ORDERS["mixed"], padding)
    assert not torch.allclose(packed, plain, atol=1e-2), "adapters change nothing"
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    assert packed_gradients.keys() == gradients.keys()
    assert sum("lora_" in name for name in gradients) >= 8
    for name, expected in gradients.items():
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(packed_gradients[name], expected, atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_weights_say_what_adapters_said(family: str, tmp_path: Path) -> None:
    """Loaded by transformers alone, which knows nothing of adapters."""
    network = FAMILIES[family].network(HEADS["rows"])
    names = set(network.state_dict())
    joined = adapted(network).eval()
    rows, padding = encoded(family, TEXTS, OTHERS)
    batch = lay_out(rows, np.arange(len(rows)), network.base_model, padding, CPU)
    with torch.no_grad():
        before = encode(network.base_model, batch).logits(network)
        merge_adapters(joined)
        after = encode(network.base_model, batch).logits(network)
    assert before is not None
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert set(network.state_dict()) == names
    assert not any(isinstance(module, LoraLayer) for module in joined.modules())
    network.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation=network.config._attn_implementation
    ).eval()
    with torch.no_grad():
        alone = encode(loaded.base_model, batch).logits(loaded)
    torch.testing.assert_close(alone, before, atol=1e-5, rtol=1e-5)


def test_inference_in_half_precision_does_not_pass_adapters_over() -> None:
    joined = adapted(make_network())
    assert not FastEncoder.fits(joined.encoder)
    merge_adapters(joined)
    assert FastEncoder.fits(joined.encoder)


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_layers_may_be_computed_again(family: str) -> None:
    found = []
    for recompute in (False, True):
        data = token_data(FAMILIES[family].tokenizer(), 20)
        network = FAMILIES[family].network(HEADS["rows"])
        data.targets.values[:] %= network.num_labels
        context = context_for(data, network, micro_batch_tokens=60)
        joined = adapted_in(context.joined)
        if recompute:
            recompute_layers(joined)
        run_step(context, torch.optim.SGD(joined.parameters(), lr=0.1), BATCH, BATCH, seed=4)
        found.append(gradients_of(joined))
    once, twice = found
    assert once.keys() == twice.keys()
    assert any("lora_A" in name for name in once)
    for name, values in once.items():
        np.testing.assert_allclose(twice[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def adapted_in(joined: Any, seed: int = 1) -> Any:
    """A context's own network, with adapters as a run draws them."""
    torch.manual_seed(seed)
    add_adapters(joined, LORA)
    return joined


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 116)


def test_a_killed_run_goes_on_with_exactly_the_same_weights(data: TokenData, tmp_path: Path) -> None:
    recipe = {"batch_rows": 8, "learning_rate": 3e-3}
    whole, notes = context_for(data, make_network(), **recipe), Notes(tmp_path)
    adapted_in(whole.joined)
    base = weights_of(whole.joined.encoder)
    train(job_for(whole, epochs=2, every_s=1e-9), notes.hooks())
    resumed, again = context_for(data, make_network(), **recipe), Notes(tmp_path / "again")
    adapted_in(resumed.joined, seed=9)
    train(job_for(resumed, epochs=2), again.hooks(restore=notes.checkpoints[0]))
    assert again.statuses[0].step > 10
    assert same_weights(weights_of(resumed.joined), weights_of(whole.joined))
    changed = {name for name, weights in weights_of(whole.joined.encoder).items() if not weights.equal(base[name])}
    assert len(changed) == 2 * 12 + 2, "two matrices for each of 12, and the pooler"
    assert all("lora_" in name or name.startswith("pooler.") for name in changed)


def test_a_learnable_set_is_learnt_by_adapters(data: TokenData, tmp_path: Path) -> None:
    context, notes = context_for(data, make_network(), batch_rows=8, learning_rate=5e-3), Notes(tmp_path)
    adapted_in(context.joined)
    context.joined.network("").classifier.requires_grad_(False)
    context.joined.encoder.pooler.requires_grad_(False)
    train(job_for(context, epochs=4), notes.hooks())
    losses = [status.loss for status in notes.statuses]
    assert losses[-1] < 0.5 * losses[0]


def test_bundles_of_several_heads_hold_one_encoder_of_plain_weights(tmp_path: Path, encoder_directory: Path) -> None:
    """Figures are those of the network that was trained, to what merging rounds."""
    write_corpus(tmp_path / "rows", num_files=2)
    data = {"train": str(tmp_path / "rows"), "validation": str(tmp_path / "rows")}
    raw = {
        "model": str(encoder_directory),
        "output": str(tmp_path / "bundles"),
        "heads": {
            "tone": {"task": "text-classification", "data": data},
            "near": {"task": "embedding", "data": {**data, "inputs": {"text_a": "text", "text_b": "label"}}},
        },
        "training": {"epochs": 1, "learning_rate": 5e-3, "lora": {"rank": 4}},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    run = prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec")
    infos = train_alone(run, num_threads=1)
    tone, near = (
        load_network(tmp_path / "bundles" / name, head)
        for name, head in (("tone", "AutoModelForSequenceClassification"), ("near", "AutoModel"))
    )
    assert shares_encoder(tone, near)
    start = weights_of(load_network(encoder_directory, "AutoModel"))
    after = weights_of(tone.base_model)
    assert after.keys() == start.keys()
    changed = {name for name in start if not start[name].equal(after[name])}
    assert changed == {f"{name}.weight" for name in find_targets(tone.base_model, "auto")} | {
        name for name in start if name.startswith("pooler.")
    }
    job, _ = build_job(replace(run, spec=run.spec.model_copy(update={"training": TrainingConfig()})), 0, 1)
    widen_vocabulary(job.context.joined)
    job.context.joined.network("tone").load_state_dict(tone.state_dict())
    metrics = evaluate(job)["tone"].evaluation.metrics
    assert metrics == pytest.approx(infos["tone"].metrics, abs=1e-4)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"target_modules": ["query", "q_lin"]},
            r"names 'q_lin'; expected auto, or some of: attention\.output\.dense, ",
        ),
        ({"rank": 32}, r"training\.lora\.rank: holds 32; expected less than the matrices' own 32"),
    ],
)
def test_adapters_that_cannot_be_are_refused_by_the_configuration_alone(
    lora: dict[str, Any], message: str, tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / "e")
    (tmp_path / "e" / "model.safetensors").unlink()
    check_lora(encoder, LoraConfig(target_modules=("query", "output.dense")), "spec.yaml")
    check_lora(encoder, None, "spec.yaml")
    with pytest.raises(SpecError, match=message):
        check_lora(encoder, LoraConfig(**lora), "spec.yaml")


def test_named_modules_alone_get_adapters() -> None:
    encoder = make_network().base_model
    assert list(find_targets(encoder, ["query", "attention.output.dense"])) == [
        f"encoder.layer.{layer}.attention.{module}" for layer in (0, 1) for module in ("self.query", "output.dense")
    ]
    assert len(find_targets(encoder, ["output.dense"])) == 4
    assert find_targets(encoder, ["uery"]) == {}


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"training\.lora needs peft, not installed here"):
        check_lora(make_encoder(tmp_path / "e"), LORA, "spec.yaml")


@pytest.mark.parametrize("other", [{"freeze_layers": 1}, {"freeze_layers": 0}, {"reset_layers": 1}])
def test_fields_about_the_encoders_own_weights_have_no_meaning_beside_adapters(other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(other))} has no meaning with lora"):
        TrainingConfig(lora=LORA, **other)  # type: ignore[arg-type]
    assert TrainingConfig(lora=LORA, layer_decay=0.9).lora == LORA


def test_a_change_counts_twice_unless_told() -> None:
    assert (LoraConfig(rank=4).scale, LoraConfig(rank=4, alpha=1).scale) == (8, 1)
