from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.encoder.model import load_trainable
from pipeline.finetune.head_labels import match_labels, read_labels
from pipeline.tasks.text_classification import class_names
from tests.unit.encoder.families import FAMILIES

TEXTS = {"input_ids": torch.tensor([[1, 5, 6, 2], [1, 7, 8, 2]])}


def checkpoint(directory: Path, labels: tuple[str, ...], family: str, head_class: str) -> str:
    """A network with a head that was trained for these labels."""
    network = FAMILIES[family].network(head_class)
    classifier = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
    wider = torch.nn.Linear(classifier.in_features, len(labels))
    torch.nn.init.normal_(wider.weight, std=0.3)
    torch.nn.init.normal_(wider.bias)
    name = next(name for name, part in network.named_modules() if part is classifier)
    parent, _, short = name.rpartition(".")
    setattr(network.get_submodule(parent), short, wider)
    network.config.update({**class_names(labels), "num_labels": len(labels)})
    network.save_pretrained(directory)
    return str(directory)


def load(source: str, labels: tuple[str, ...], head_class: str) -> tuple[Any, frozenset[str]]:
    network, new = load_trainable(source, head_class, False, **class_names(labels))
    return network, match_labels(network.eval(), new, read_labels(source), labels)


def scores(network: Any, labels: tuple[str, ...]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logits = network(**TEXTS).logits
    return {label.casefold(): logits[..., place] for place, label in enumerate(labels)}


@pytest.mark.parametrize("head_class", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlnet", "modernbert"])
def test_labels_in_another_order_keep_their_own_weights(tmp_path: Path, family: str, head_class: str) -> None:
    theirs, ours = ("NEUTRAL", "NEGATIVE", "POSITIVE"), ("negative", "neutral", "positive")
    source = checkpoint(tmp_path / "checkpoint", theirs, family, head_class)
    as_it_is, _ = load_trainable(source, head_class, False)
    network, new = load(source, ours, head_class)
    assert not new
    before, after = scores(as_it_is.eval(), theirs), scores(network, ours)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[label], after[label]) for label in before)


@pytest.mark.parametrize("theirs", [("x", "y", "z"), ("negative", "neutral", "other")])
def test_a_head_of_other_labels_is_a_new_one(tmp_path: Path, theirs: tuple[str, ...]) -> None:
    head_class, ours = "AutoModelForSequenceClassification", ("negative", "neutral", "positive")
    source = checkpoint(tmp_path / "checkpoint", theirs, "bert", head_class)
    as_it_is, _ = load_trainable(source, head_class, False)
    network, new = load(source, ours, head_class)
    assert new == {"classifier.weight", "classifier.bias"}
    assert not torch.equal(as_it_is.classifier.weight, network.classifier.weight)
    assert 0 < network.classifier.weight.std() < 2 * network.config.initializer_range
    assert not network.classifier.bias.any()
    assert torch.equal(as_it_is.bert.pooler.dense.weight, network.bert.pooler.dense.weight)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(("LABEL_0", "LABEL_1"), ("0", "1")), (("A", "a"), ("A", "a"))],
)
def test_labels_in_their_places_change_nothing(tmp_path: Path, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    head_class = "AutoModelForSequenceClassification"
    source = checkpoint(tmp_path / "checkpoint", theirs, "bert", head_class)
    as_it_is, _ = load_trainable(source, head_class, False)
    network, new = load(source, ours, head_class)
    assert not new
    assert torch.equal(as_it_is.classifier.weight, network.classifier.weight)


def test_a_head_that_is_not_there_stays_new(encoder_directory: Path) -> None:
    _, new = load(str(encoder_directory), ("a", "b"), "AutoModelForSequenceClassification")
    assert {"classifier.weight", "classifier.bias"} <= new
