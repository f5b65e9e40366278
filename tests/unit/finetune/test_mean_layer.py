"""Heads over rows that read the mean of all tokens: when they do, what they get, and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.encoder.fast import FastEncoder
from pipeline.encoder.forward import lay_out
from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.layers import has_mean_layer
from pipeline.encoder.model import load_trainable
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.errors import SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.last_layer import LastLayer
from pipeline.finetune.layers import check_layers, count_layers, reset_layers
from pipeline.finetune.lora import add_adapters
from pipeline.finetune.mean_layer import check_reading, reads_mean, settle_reading
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec, LoraConfig, TrainingConfig
from pipeline.tasks import TASKS
from tests.unit.encoder.families import FAMILIES
from tests.unit.encoder.test_families import OTHERS, TEXTS, encoded
from tests.unit.encoder.test_trained import CPU, INDICES, assert_alike, by_transformers, run
from tests.unit.finetune.training import raw_spec, same_weights, weights_of

CLASSIFIER = "AutoModelForSequenceClassification"
ROWS = TASKS["text-classification"]
MANY, FEW = 2_000, 1_000  # rows of the two labels that a tiny network has


def spec_of(training: dict[str, Any] | None = None, **fields: Any) -> FinetuneSpec:
    known = {"task": "text-classification", "model": "m", "data": {"train": "t"}, "output": "o"}
    return FinetuneSpec.model_validate({**known, "training": training or {}, **fields})


def network_of(family: str = "bert", head_class: str = CLASSIFIER) -> tuple[Any, frozenset[str]]:
    """A network, and the names of its last layer's weights."""
    network = FAMILIES[family].network(head_class)
    last = LastLayer.of(network).linear
    owned = {id(weight) for weight in last.parameters()}
    return network, frozenset(name for name, weight in network.named_parameters() if id(weight) in owned)


def settled(training: dict[str, Any], num_rows: int, family: str = "bert", **fields: Any) -> Any:
    network, new_weights = network_of(family)
    settle_reading(spec_of(training, **fields), ROWS, network, new_weights, num_rows)
    return network


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_the_last_layer_sees_the_normalised_mean(family: str) -> None:
    """Padding included: what the head gets is a straight function of the mean over a text's own tokens."""
    network, new_weights = network_of(family)
    ids = torch.tensor([[5, 9, 12, 7, 3], [5, 8, 6, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        states = network.base_model(input_ids=ids, attention_mask=mask)[0]
        mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        settle_reading(spec_of({"method": "linear_head"}), ROWS, network, new_weights, MANY)
        seen: list[torch.Tensor] = []
        LastLayer.of(network).linear.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        network.eval()(input_ids=ids, attention_mask=mask)
    expected = torch.nn.functional.layer_norm(mean, mean.shape[-1:])
    rectified = float(family == "distilbert")  # what its head gets is shifted by so much, to stay above nothing
    cosines = torch.cosine_similarity(seen[0] - rectified, expected)
    assert (cosines > 0.999).all(), cosines


@pytest.mark.parametrize("is_coarse", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_a_mean_taken_before_the_layers_products_is_the_same(
    family: str, is_coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = settled({"head_reads": "mean"}, FEW, family).eval()
    ours = run(network, family, "rows", firsts_only=True, is_coarse=is_coarse)
    assert_alike(ours, by_transformers(monkeypatch, lambda: run(network, family, "rows")))


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_scoring_in_half_precision_takes_it_before_too(family: str) -> None:
    encoder = settled({"head_reads": "mean"}, FEW, family).eval().base_model
    rows, padding = encoded(family, TEXTS, OTHERS)
    with torch.no_grad():
        batch = lay_out(rows, INDICES, encoder, padding, CPU)
        firsts = batch.pack.take_firsts(encoder(**batch.inputs, pack=batch.pack)[0][0])
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
            found = FastEncoder(encoder, dtype)(batch, firsts_only=True)[0][0]
            torch.testing.assert_close(found.float(), firsts, atol=tolerance, rtol=tolerance)


def test_the_mean_is_of_all_tokens_in_training_too() -> None:
    """Every dropout is still there but that of this layer's attention weights."""
    network, new_weights = network_of()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    settle_reading(spec_of({"head_reads": "mean"}), ROWS, network, new_weights, FEW)
    undropped = {name for name, module in network.named_modules() if getattr(module, "p", 0.3) == 0}
    assert undropped == {"bert.encoder.layer.2.attention.self.dropout"}


@pytest.mark.parametrize(
    ("training", "num_rows", "pooling", "expected"),
    [
        ({}, FEW, "mean", True),
        ({}, MANY, "mean", False),
        ({}, FEW, "cls", False),
        ({"head_reads": "first"}, FEW, "mean", False),
        ({"head_reads": "mean"}, MANY, "cls", True),
        ({"method": "linear_head"}, MANY, "mean", True),
        ({"method": "linear_head"}, FEW, "cls", False),
        ({"method": "linear_head", "head_reads": "first"}, FEW, "mean", False),
    ],
)
def test_who_reads_the_mean(training: dict[str, Any], num_rows: int, pooling: str, expected: bool) -> None:
    network = settled(training, num_rows, pooling=pooling)
    assert reads_mean(network.config) is expected
    assert network.config.num_hidden_layers == len(network.base_model.encoder.layer) == 2 + expected


@pytest.mark.parametrize(("num_rows", "expected"), [(500, True), (600, False)])
def test_a_number_a_row_counts_as_one_label(num_rows: int, expected: bool) -> None:
    network, new_weights = network_of()
    network.config.num_labels = 1
    settle_reading(spec_of(task="similarity"), TASKS["similarity"], network, new_weights, num_rows)
    assert reads_mean(network.config) is expected


def test_a_head_that_pools_by_itself_is_told_to() -> None:
    network = settled({"head_reads": "mean"}, MANY, "modernbert")
    assert network.config.classifier_pooling == "mean"
    assert not has_mean_layer(network.config)
    assert settled({"head_reads": "first"}, FEW, "modernbert").config.classifier_pooling == "cls"


def test_a_head_over_tokens_is_no_matter_of_pooling() -> None:
    """Its configuration may say that a head over rows would read the mean; weights that are known stay known."""
    network, _ = network_of("modernbert", "AutoModelForTokenClassification")
    network.config.classifier_pooling = "mean"
    task = TASKS["token-classification"]
    assert settle_reading(spec_of(task=task.name), task, network, frozenset(), FEW) == frozenset()
    several = {"heads": {"tone": {"task": "text-classification", "data": {"train": "t"}}}, "task": None, "data": None}
    network, _ = network_of("modernbert")
    network.config.classifier_pooling = "mean"
    assert settle_reading(spec_of(**several), ROWS, network, frozenset(), FEW) == frozenset()
    assert network.config.classifier_pooling == "mean"


@pytest.mark.parametrize("family", ["albert", "mpnet", "xlnet"])
def test_few_rows_leave_other_families_as_they_are(family: str) -> None:
    network = settled({}, FEW, family)
    before = FAMILIES[family].network(CLASSIFIER)
    assert same_weights(weights_of(network), weights_of(before))


def test_a_head_that_is_known_goes_on_reading_what_it_was_trained_on() -> None:
    network, _ = network_of()
    before = weights_of(network)
    assert settle_reading(spec_of(), ROWS, network, frozenset(), FEW) == frozenset()
    assert same_weights(weights_of(network), before)
    changed = settle_reading(spec_of({"head_reads": "mean"}), ROWS, network, frozenset(), FEW)
    assert changed >= {"classifier.weight", "classifier.bias"}, "fitted anew: they were trained on the first token"
    before = weights_of(network)
    assert settle_reading(spec_of(), ROWS, network, frozenset(), MANY) == frozenset()
    assert same_weights(weights_of(network), before), "a bundle of such a head goes on with it"


@pytest.mark.parametrize("task", ["token-classification", "embedding"])
def test_other_tasks_take_the_layer_away(task: str, tmp_path: Path) -> None:
    settled({}, FEW).save_pretrained(tmp_path)
    network, new_weights = load_trainable(tmp_path, TASKS[task].head_class)
    assert has_mean_layer(network.config)
    settle_reading(spec_of(task=task), TASKS[task], network, new_weights, FEW)
    assert network.config.num_hidden_layers == 2
    assert not has_mean_layer(network.config)
    encoders = (network.base_model, FAMILIES["bert"].network(CLASSIFIER).base_model)
    own = [{name: value for name, value in weights_of(one).items() if "pooler" not in name} for one in encoders]
    assert same_weights(*own)


def test_the_layer_is_not_trained_and_does_not_count() -> None:
    """Recipes that speak of layers mean the encoder's own; adapters, fresh weights and rates leave it alone."""
    network = settled({}, FEW)
    mean = weights_of(network.base_model.encoder.layer[-1])
    joined = JoinedHeads({"": network}, EmbeddingOptions("mean", normalize=True))
    assert count_layers(joined.encoder.config) == 2
    recipe = TrainingConfig(learning_rate=1e-3, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in make_optimizer(joined, recipe).param_groups for p in group["params"]}
    assert rates[id(network.base_model.encoder.layer[1].output.dense.weight)] == pytest.approx(1e-3)
    assert not any(id(weight) in rates for weight in network.base_model.encoder.layer[2].parameters())
    reset_layers(joined, 2)
    add_adapters(joined, LoraConfig(rank=2))
    assert any("lora_" in name for name, _ in network.base_model.encoder.layer[1].named_parameters())
    assert same_weights(weights_of(network.base_model.encoder.layer[-1]), mean)


def test_a_recipe_cannot_ask_for_more_than_the_encoders_own_layers(tmp_path: Path) -> None:
    settled({}, FEW).config.save_pretrained(tmp_path)
    check_layers(str(tmp_path), TrainingConfig(reset_layers=2, freeze_layers=2), "spec.yaml")
    with pytest.raises(SpecError, match=r"reset_layers: holds 3; expected at most the encoder's 2 layers"):
        check_layers(str(tmp_path), TrainingConfig(reset_layers=3), "spec.yaml")


def test_a_bundle_trained_on_few_rows_is_an_ordinary_classifier(tmp_path: Path, encoder_directory: Path) -> None:
    raw = raw_spec(tmp_path, encoder_directory, rows_per_file=15, training={"epochs": 2, "learning_rate": 1e-3})
    (info,) = train_alone(prepare_training(FinetuneSpec.model_validate(raw), "spec.yaml"), num_threads=1).values()
    network = AutoModelForSequenceClassification.from_pretrained(raw["output"]).eval()
    assert network.config.num_hidden_layers == 3
    tokenizer = AutoTokenizer.from_pretrained(raw["output"])
    held = pq.read_table(tmp_path / "validation")
    with torch.no_grad():
        logits = [network(**tokenizer(text, return_tensors="pt")).logits[0] for text in held["text"].to_pylist()]
    truth = torch.tensor([info.labels.index(label) for label in held["label"].to_pylist()])
    loss = torch.nn.functional.cross_entropy(torch.stack(logits), truth)
    assert float(loss) == pytest.approx(info.metrics["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "token-classification"}, "head_reads: mean, for token-classification; expected one task whose head"),
        ({"model": "albert"}, "model: is of family albert; expected for head_reads: mean one of: bert, .* mod"),
    ],
)
def test_what_cannot_read_the_mean_is_said(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    spec = spec_of({"head_reads": "mean"}, **fields)
    FAMILIES[fields.get("model", "bert")].network("AutoModel").config.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match=message):
        check_reading(spec, str(tmp_path), {"": TASKS[spec.task or ""]}, "spec.yaml")
    FAMILIES["modernbert"].network("AutoModel").config.save_pretrained(tmp_path)
    check_reading(spec_of({"head_reads": "mean"}), str(tmp_path), {"": ROWS}, "spec.yaml")
