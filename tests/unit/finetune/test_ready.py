from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from pipeline.config import ComputeConfig
from pipeline.corpus.reader import input_column
from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import ModelError, SpecError
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.spec import BundleSpec
from pipeline.inference.predictor import ModelSource, TextSource, load_predictor
from pipeline.storage import Storage
from pipeline.tasks import find_task
from tests.tiny import make_bundle, make_tokenizer, tiny_config

TEXTS = ["good film", "it was a dull and awful film", "seven blue tables"]
TAGS = ("O", "B-PER", "I-PER")


def save_trained(directory: Path, head: str, labels: tuple[str, ...], **config: Any) -> Any:
    """A checkpoint of someone else's training: weights with a head, labels in config.json, no bundle.json."""
    torch.manual_seed(3)
    settings = tiny_config(labels)
    settings.update(config)
    network = getattr(transformers, head).from_config(settings)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    network.save_pretrained(directory)
    make_tokenizer(directory)
    return network.eval()


def rewrite_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def bundle_as(task: str, model: Path) -> str:
    output = f"{model}-bundle"
    bundle_encoder(BundleSpec(model=str(model), output=output, task=task, max_length=32, stride=8))
    return output


def decode(bundle: str, *columns: list[str]) -> list[dict[str, Any]]:
    names = tuple(str(index) for index in range(len(columns)))
    source = ModelSource({"": bundle}, {"": TextSource(names)}, ComputeConfig(precision="fp32"), 1, Storage())
    rows = pa.table({input_column(name): pa.array(texts) for name, texts in zip(names, columns, strict=True)})
    predictor = load_predictor(source)
    found, member = predictor.predict(rows, source.texts)[""], predictor.members[""]
    arrays = member.task.decode(found.outputs, found.examples, member.learned)
    return pa.table(arrays, names=[field.name for field in member.task.output_fields()]).to_pylist()


def plain_logits(network: Any, model: Path, *texts: str) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    with torch.inference_mode():
        return np.asarray(network(**tokenizer(*texts, return_tensors="pt")).logits[0].numpy())


@pytest.mark.parametrize("task", ["text-classification", "pair-classification"])
def test_a_trained_classifier_is_scored_as_transformers_does(tmp_path: Path, task: str) -> None:
    labels = ("no way", "yes", "ma\u00fdbe")
    network = save_trained(tmp_path / "m", "AutoModelForSequenceClassification", labels)
    columns = [TEXTS] if task == "text-classification" else [TEXTS, TEXTS[::-1]]
    for row, texts in zip(decode(bundle_as(task, tmp_path / "m"), *columns), zip(*columns, strict=True), strict=True):
        logits = plain_logits(network, tmp_path / "m", *texts)
        scores = np.exp(logits) / np.exp(logits).sum()
        assert row["label"] == labels[int(logits.argmax())]
        np.testing.assert_allclose(row["class_scores"], scores, atol=1e-5)


def test_a_checkpoint_whose_configuration_asks_for_tuples_is_scored_too(tmp_path: Path) -> None:
    save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("a", "b"))
    expected = decode(bundle_as("text-classification", tmp_path / "m"), TEXTS)
    rewrite_config(tmp_path / "m", return_dict=False)
    assert decode(bundle_as("text-classification", tmp_path / "m"), TEXTS) == expected


def test_a_trained_cross_encoder_gives_its_sigmoid(tmp_path: Path) -> None:
    network = save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("LABEL_0",))
    rows = decode(bundle_as("similarity", tmp_path / "m"), TEXTS, TEXTS[::-1])
    logits = [plain_logits(network, tmp_path / "m", *pair)[0] for pair in zip(TEXTS, TEXTS[::-1], strict=True)]
    np.testing.assert_allclose([row["similarity"] for row in rows], 1 / (1 + np.exp(-np.array(logits))), atol=1e-5)


@pytest.mark.parametrize("is_regression", [False, True])
@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Sigmoid(), None])
def test_a_trained_cross_encoder_gives_what_its_own_program_does(
    tmp_path: Path, activation: torch.nn.Module | None, is_regression: bool
) -> None:
    kind = {"problem_type": "regression"} if is_regression else {}
    save_trained(tmp_path / "raw", "AutoModelForSequenceClassification", ("LABEL_0",), **kind)
    own = CrossEncoder(str(tmp_path / "raw"), activation_fn=activation, max_length=32, device="cpu")
    own.save_pretrained(str(tmp_path / "m"))
    rows = decode(bundle_as("similarity", tmp_path / "m"), TEXTS, TEXTS[::-1])
    expected = own.predict(list(zip(TEXTS, TEXTS[::-1], strict=True)), show_progress_bar=False)
    np.testing.assert_allclose([row["similarity"] for row in rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"problem_type": "regression"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_a_head_trained_without_a_sigmoid_gives_its_logits(tmp_path: Path, config: dict[str, Any]) -> None:
    network = save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("LABEL_0",), **config)
    logits = [plain_logits(network, tmp_path / "m", *pair)[0] for pair in zip(TEXTS, TEXTS[::-1], strict=True)]
    first = bundle_as("similarity", tmp_path / "m")
    for bundle in (first, bundle_as("similarity", Path(first))):
        rows = decode(bundle, TEXTS, TEXTS[::-1])
        np.testing.assert_allclose([row["similarity"] for row in rows], logits, rtol=1e-4, atol=1e-5)


def test_a_trained_bundles_range_and_sigmoid_are_kept(tmp_path: Path) -> None:
    """Its configuration says regression, and yet it was trained with a sigmoid."""
    save_trained(tmp_path / "raw", "AutoModelForSequenceClassification", ("LABEL_0",), problem_type="regression")
    network = transformers.AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "raw"))
    make_bundle(tmp_path / "m", (), network=network, task="similarity", inputs={}, options={"low": 1.0, "high": 5.0})
    expected, found = (
        decode(bundle, TEXTS, TEXTS[::-1]) for bundle in (f"{tmp_path}/m", bundle_as("similarity", tmp_path / "m"))
    )
    assert found == expected


@pytest.mark.parametrize(
    ("task", "head", "labels", "options"),
    [
        ("multi-label", "AutoModelForSequenceClassification", ("a", "b"), {"threshold.a": 0.1, "threshold.b": 0.7}),
        ("question-answering", "AutoModelForQuestionAnswering", (), {"may_decline": 1.0, "null_threshold": -2.5}),
    ],
)
def test_a_trained_bundles_thresholds_and_columns_are_kept(
    tmp_path: Path, task: str, head: str, labels: tuple[str, ...], options: dict[str, float]
) -> None:
    config = {"problem_type": "multi_label_classification"} if task == "multi-label" else {}
    network = save_trained(tmp_path / "raw", head, labels or ("start", "end"), **config)
    inputs = {name: f"{name}_column" for name in find_task(task, "test").inputs}
    make_bundle(tmp_path / "m", labels, network=network, task=task, inputs=inputs, options=options)
    found = read_bundle_info(bundle_as(task, tmp_path / "m"), Storage())
    assert (found.labels, found.options, found.inputs) == (labels, options, inputs)


def test_a_bundle_of_another_task_says_nothing_of_this_one(tmp_path: Path) -> None:
    make_bundle(tmp_path / "m", options={"threshold.a": 0.1}, inputs={"text": "body"})
    found = read_bundle_info(bundle_as("embedding", tmp_path / "m"), Storage())
    assert (found.options, found.inputs) == ({}, {"text": "text"})


def test_a_trained_tagger_finds_the_entities_of_its_tags(tmp_path: Path) -> None:
    network = save_trained(tmp_path / "m", "AutoModelForTokenClassification", TAGS)
    (row,) = decode(bundle_as("token-classification", tmp_path / "m"), ["good film was blue"])
    tags = [TAGS[index] for index in plain_logits(network, tmp_path / "m", "good film was blue")[1:-1].argmax(axis=1)]
    before = ("O", *tags[:-1])
    begins = [tag for tag, last in zip(tags, before, strict=True) if tag[0] == "B" or (tag != "O" and last == "O")]
    assert len(row["entities"]) == len(begins)


def test_trained_question_answering_never_declines(tmp_path: Path) -> None:
    save_trained(tmp_path / "m", "AutoModelForQuestionAnswering", ("a", "b"))
    rows = decode(bundle_as("question-answering", tmp_path / "m"), ["good?"] * 3, TEXTS)
    assert all(row["is_answerable"] and row["answer"] in text for row, text in zip(rows, TEXTS, strict=True))


@pytest.mark.parametrize(
    ("task", "head", "labels", "config", "message"),
    [
        ("text-classification", "AutoModel", ("a", "b"), {}, "the model's weight classifier.bias is missing"),
        ("similarity", "AutoModelForSequenceClassification", ("a", "b"), {}, "has 2 outputs"),
        ("text-classification", "AutoModelForSequenceClassification", ("a",), {}, "takes two or more"),
        (
            "text-classification",
            "AutoModelForSequenceClassification",
            ("a", "b"),
            {"problem_type": "multi_label_classification"},
            "problem_type multi_label_classification",
        ),
        (
            "similarity",
            "AutoModelForSequenceClassification",
            ("a",),
            {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
            "activation function is torch.nn.modules.activation.Tanh; expected one of: .*Sigmoid, .*Identity",
        ),
        ("token-classification", "AutoModelForTokenClassification", ("LABEL_0", "LABEL_1"), {}, "id2label: tag"),
        ("token-classification", "AutoModelForTokenClassification", ("B-X", "I-X"), {}, "id2label has no 'O'"),
    ],
)
def test_a_head_of_another_task_is_refused(
    tmp_path: Path, task: str, head: str, labels: tuple[str, ...], config: dict[str, Any], message: str
) -> None:
    save_trained(tmp_path / "m", head, labels, **config)
    with pytest.raises(ModelError, match=message):
        bundle_as(task, tmp_path / "m")


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 3)])
def test_labels_that_are_not_numbered_from_0_are_refused(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("a", "b", "c"))
    rewrite_config(tmp_path / "m", id2label=dict(zip(map(str, numbers), "abc", strict=True)))
    with pytest.raises(
        ModelError, match=f"id2label numbers its labels {numbers[0]}, .*; expected every number from 0 to 2"
    ):
        bundle_as("text-classification", tmp_path / "m")


@pytest.mark.parametrize("names", [["a", "b"], {"a": 0, "b": 1}])
def test_labels_without_numbers_are_refused(tmp_path: Path, names: object) -> None:
    save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("a", "b"))
    rewrite_config(tmp_path / "m", id2label=names)
    with pytest.raises(ModelError, match=r'config\.json: id2label is .*"a".*; expected the number of each'):
        bundle_as("text-classification", tmp_path / "m")


def test_a_task_without_such_heads_is_refused(tmp_path: Path) -> None:
    save_trained(tmp_path / "m", "AutoModel", ("a", "b"))
    with pytest.raises(SpecError, match="'masked-lm' has no head of its own"):
        bundle_as("masked-lm", tmp_path / "m")


@pytest.mark.parametrize("task", ["pair-classification", "similarity"])
def test_windows_of_pairs_are_refused_as_in_training(tmp_path: Path, task: str) -> None:
    save_trained(tmp_path / "m", "AutoModelForSequenceClassification", ("a",) if task == "similarity" else ("a", "b"))
    window = {"max_length": 32, "long_text": "window", "stride": 8}
    spec = BundleSpec(model=str(tmp_path / "m"), output=str(tmp_path / "b"), task=task, **window)
    with pytest.raises(SpecError, match=f"long_text: window, for the pairs of task {task}"):
        bundle_encoder(spec)
