"""A linear head: an exact logistic regression on pooled states, in a network that transformers loads as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig

from pipeline.encoder.bundle import fetch_bundle
from pipeline.errors import SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.fitted import LastLayer
from pipeline.finetune.linear_head import add_mean_layer, check_linear_head, pass_through, suggest_linear_head
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.tasks import TASKS
from pipeline.tasks.base import Task
from tests.tiny import LABELS, make_rows
from tests.unit.encoder.families import FAMILIES
from tests.unit.finetune.training import raw_spec

WITH_A_LINEAR_HEAD = ["bert", "roberta", "electra"]


@pytest.mark.parametrize("family", WITH_A_LINEAR_HEAD)
def test_the_last_layer_sees_the_normalised_mean(family: str) -> None:
    """Padding included: what the head gets is a straight function of the mean over a text's own tokens."""
    network = FAMILIES[family].network("AutoModelForSequenceClassification").eval()
    ids = torch.tensor([[5, 9, 12, 7, 3], [5, 8, 6, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        states = network.base_model(input_ids=ids, attention_mask=mask)[0]
        mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        add_mean_layer(network)
        pass_through(network)
        seen: list[torch.Tensor] = []
        LastLayer.of(network).linear.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        network(input_ids=ids, attention_mask=mask)
    expected = torch.nn.functional.layer_norm(mean, mean.shape[-1:])
    cosines = torch.cosine_similarity(seen[0], expected)
    assert (cosines > 0.999).all(), cosines


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    return raw_spec(tmp_path, encoder_directory, rows_per_file=100, training={"method": "linear_head"})


@pytest.mark.parametrize(("pooling", "num_layers"), [("mean", 3), ("cls", 2)])
def test_the_bundle_is_an_ordinary_classifier(raw: dict[str, Any], pooling: str, num_layers: int) -> None:
    spec = FinetuneSpec.model_validate({**raw, "pooling": pooling})
    run = prepare_training(spec, "spec.yaml")
    (info,) = train_alone(run, num_threads=1).values()
    assert info.metrics["accuracy"] >= 0.5, "a random encoder; by chance it is a third"
    bundle = fetch_bundle(spec.output, Storage())
    network = AutoModelForSequenceClassification.from_pretrained(bundle.path).eval()
    assert network.config.num_hidden_layers == num_layers
    tokenizer = AutoTokenizer.from_pretrained(bundle.path)
    rows = make_rows(20, 1_000)
    with torch.no_grad():
        logits = [network(**tokenizer(text, return_tensors="pt")).logits[0] for text in rows["text"].to_pylist()]
    labels = [LABELS[int(row.argmax())] for row in logits]
    accuracy = np.mean([label == truth for label, truth in zip(labels, rows["label"].to_pylist(), strict=True)])
    assert accuracy == pytest.approx(info.metrics["accuracy"])


def test_the_encoder_stays_as_it_is(raw: dict[str, Any]) -> None:
    spec = FinetuneSpec.model_validate(raw)
    train_alone(prepare_training(spec, "spec.yaml"), num_threads=1)
    before = AutoModelForSequenceClassification.from_pretrained(raw["model"]).base_model.state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(spec.output).base_model.state_dict()
    kept = [name for name in before if not name.startswith("pooler.")]
    assert all(torch.equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "multi-label"}, r"training\.method: linear_head, for multi-label; expected one task with one label"),
        ({"pooling": "max"}, r"pooling: holds 'max'; expected mean or cls"),
    ],
)
def test_what_a_linear_head_cannot_be_is_said(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    spec = FinetuneSpec.model_validate({**raw, **changes})
    with pytest.raises(SpecError, match=message):
        check_linear_head(spec, raw["model"], {"": TASKS[spec.task or ""]}, "spec.yaml")


def test_another_family_is_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    DistilBertConfig().save_pretrained(tmp_path / "other")
    spec = FinetuneSpec.model_validate(raw)
    with pytest.raises(SpecError, match="model: is of family distilbert; expected for linear_head one of: bert"):
        check_linear_head(spec, str(tmp_path / "other"), {"": TASKS["text-classification"]}, "spec.yaml")


def test_settings_of_steps_have_no_place(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="epochs has no meaning with method: linear_head"):
        FinetuneSpec.model_validate({**raw, "training": {"method": "linear_head", "epochs": 3}})


def test_it_is_suggested_for_few_rows_where_it_can_be(raw: dict[str, Any], tmp_path: Path) -> None:
    trained, task = {**raw, "training": {"epochs": 1}}, TASKS["text-classification"]
    DistilBertConfig().save_pretrained(tmp_path / "other")

    def suggested(raw: dict[str, Any], num_rows: int, encoder: str = raw["model"], task: Task = task) -> list[str]:
        return suggest_linear_head(FinetuneSpec.model_validate(raw), lambda: encoder, task, num_rows, 3)

    (remark,) = suggested(trained, 47)
    assert remark.startswith("47 rows of 3 labels: with so few training.method: linear_head")
    assert suggested(trained, 48) == suggested(raw, 47) == []
    assert suggested(trained, 47, str(tmp_path / "other")) == []
    assert suggested(trained, 47, task=TASKS["token-classification"]) == []
