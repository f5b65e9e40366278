"""A linear head: an exact logistic regression on pooled states, in a network that transformers loads as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.encoder.bundle import fetch_bundle
from pipeline.errors import SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.mean_layer import check_reading
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.tasks import TASKS
from tests.tiny import LABELS, make_rows
from tests.unit.finetune.training import raw_spec


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    return raw_spec(tmp_path, encoder_directory, rows_per_file=100, training={"method": "linear_head"})


@pytest.mark.parametrize(
    ("pooling", "reads", "num_layers"), [("mean", "auto", 3), ("cls", "auto", 2), ("max", "mean", 3)]
)
def test_the_bundle_is_an_ordinary_classifier(raw: dict[str, Any], pooling: str, reads: str, num_layers: int) -> None:
    recipe = {**raw["training"], "head_reads": reads}
    spec = FinetuneSpec.model_validate({**raw, "pooling": pooling, "training": recipe})
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
        ({"task": "multi-label", "training": {"method": "linear_head", "head_reads": "first"}}, "for multi-label"),
    ],
)
def test_what_a_linear_head_cannot_be_is_said(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    spec = FinetuneSpec.model_validate({**raw, **changes})
    with pytest.raises(SpecError, match=message):
        check_reading(spec, raw["model"], {"": TASKS[spec.task or ""]}, "spec.yaml")


def test_another_family_is_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    AlbertConfig().save_pretrained(tmp_path / "other")
    spec = FinetuneSpec.model_validate(raw)
    with pytest.raises(SpecError, match="model: is of family albert; expected for linear_head one of: bert"):
        check_reading(spec, str(tmp_path / "other"), {"": TASKS["text-classification"]}, "spec.yaml")


def test_settings_of_steps_have_no_place(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="epochs has no meaning with method: linear_head"):
        FinetuneSpec.model_validate({**raw, "training": {"method": "linear_head", "epochs": 3}})
