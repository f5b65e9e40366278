"""Several heads, checked before anything starts, trained together, and found again when they are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.encoder.bundle import fetch_bundle
from pipeline.encoder.model import load_network, shares_encoder
from pipeline.errors import InputError, SeveralErrors, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage
from tests.tiny import LABELS, make_bundle, make_rows, write_corpus

Raw = dict[str, Any]


def write_pairs(directory: Path, num_rows: int = 24) -> None:
    left, right = make_rows(num_rows, 1)["text"], make_rows(num_rows, 2)["text"]
    scores = [float(row % 5) for row in range(num_rows)]
    directory.mkdir()
    pq.write_table(pa.table({"text_a": left, "text_b": right, "score": scores}), directory / "a.parquet")


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> Raw:
    """Three heads: labels, labels of other rows, pairs."""
    write_corpus(tmp_path / "tone")
    write_corpus(tmp_path / "topic", num_files=2, seed=4)
    write_corpus(tmp_path / "held-out", num_files=1, seed=7)
    write_pairs(tmp_path / "pairs")
    held_out = str(tmp_path / "held-out")
    return {
        "model": str(encoder_directory),
        "output": str(tmp_path / "out"),
        "max_length": 24,
        "training": {"learning_rate": 1e-3, "epochs": 2},
        "compute": {"device": "cpu", "precision": "fp32"},
        "heads": {
            "tone": {"task": "text-classification", "data": {"train": str(tmp_path / "tone"), "validation": held_out}},
            "topic": {"task": "text-classification", "data": {"train": str(tmp_path / "topic")}, "weight": 0.5},
            "search": {
                "task": "embedding",
                "data": {"train": str(tmp_path / "pairs"), "validation": str(tmp_path / "pairs")},
            },
        },
    }


def prepare(raw: Raw) -> PreparedTraining:
    return prepare_training(FinetuneSpec.model_validate(raw), "spec.yaml")


def refusal_of(raw: Raw) -> str:
    with pytest.raises(InputError, match=r"\S") as caught:
        prepare(raw)
    return str(caught.value)


def test_every_head_is_prepared_and_nothing_is_written(raw: Raw, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    run = prepare(raw)
    assert [(head.name, head.train.num_rows) for head in run.heads] == [("tone", 60), ("topic", 40), ("search", 24)]
    assert [head.validation and head.validation.num_rows for head in run.heads] == [20, None, 24]
    assert [head.inputs for head in run.heads] == [{"text": "text"}] * 3
    assert run.num_rows == 124
    assert sorted(tmp_path.rglob("*")) == before


def test_heads_that_read_the_same_tokens_of_other_rows_have_one_cache(raw: Raw) -> None:
    tone, topic, search = (head.cache_uri for head in prepare(raw).heads)
    assert tone == topic != search


def test_negatives_are_read_in_training_alone(raw: Raw) -> None:
    raw["heads"]["search"]["data"]["inputs"] = {"negative": "score"}
    search = prepare(raw).heads[2]
    assert search.train.texts == (("text_a",), ("text_b",), ("score",))
    assert search.validation is not None
    assert search.validation.texts == (("text_a",), ("text_b",))
    assert search.train.columns.kept == ()


def test_a_score_is_read_only_where_it_is_named(raw: Raw) -> None:
    assert prepare(raw).heads[2].train.columns.kept == ()
    raw["heads"]["search"]["data"]["label"] = "score"
    assert prepare(raw).heads[2].train.columns.kept == ("score",)


def test_what_is_wrong_with_several_heads_is_told_at_once(raw: Raw, tmp_path: Path) -> None:
    raw["model"] = str(tmp_path / "no-model")
    raw["heads"]["tone"]["data"]["train"] = str(tmp_path / "no-tone")
    raw["heads"]["search"]["data"]["inputs"] = {"text_a": "query"}
    (tmp_path / "out" / "topic").mkdir(parents=True)
    (tmp_path / "out" / "topic" / "thesis.tex").write_text("years of work")
    with pytest.raises(SeveralErrors, match=r"4 problems") as caught:
        prepare(raw)
    for words in ("no-model", "no-tone", "no column 'query'", "thesis.tex"):
        assert words in str(caught.value)


def test_labels_that_make_no_sense_are_told_with_their_heads_field(raw: Raw, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", "a"]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["positive", "furious"]}), tmp_path / "new.parquet")
    raw["heads"]["topic"]["data"]["train"] = str(tmp_path / "one.parquet")
    raw["heads"]["tone"]["data"]["validation"] = str(tmp_path / "new.parquet")
    text = refusal_of(raw)
    assert "heads.topic.data.train: column 'label' holds the labels: a; expected two labels or more" in text
    assert "heads.tone.data.validation: labels never trained: 'furious'" in text


def test_an_unknown_task_is_told_with_its_heads_field(raw: Raw) -> None:
    raw["heads"]["topic"]["task"] = "summarise"
    assert "heads.topic.task: 'summarise' is unknown" in refusal_of(raw)


def test_an_unknown_input_is_told_with_its_heads_field(raw: Raw) -> None:
    raw["heads"]["topic"]["data"]["inputs"] = {"body": "text"}
    assert "heads.topic.data.inputs: 'body' is no input" in refusal_of(raw)


def test_unknown_tasks_and_inputs_of_several_heads_are_told_together(raw: Raw, tmp_path: Path) -> None:
    raw["heads"]["topic"]["task"] = "summarise"
    raw["heads"]["search"]["data"]["inputs"] = {"body": "text"}
    raw["heads"]["tone"]["data"]["train"] = str(tmp_path / "no-tone")
    text = refusal_of(raw)
    assert [words in text for words in ("'summarise' is unknown", "'body' is no input", "no-tone")] == [True] * 3


def test_windows_are_refused_for_a_head_of_pairs(raw: Raw) -> None:
    raw |= {"long_text": "window", "stride": 4}
    raw["heads"]["topic"]["task"] = "pair-classification"
    with pytest.raises(SpecError, match="long_text: window, for the pairs of task pair-classification"):
        prepare(raw)


def test_compared_texts_are_cut_where_others_are_windowed(raw: Raw) -> None:
    raw |= {"long_text": "window", "stride": 4}
    policies = [head.token_options.long_text for head in prepare(raw).heads]
    assert policies == ["window", "window", "truncate"]


def test_data_moved_from_one_head_to_another_is_another_run(raw: Raw, tmp_path: Path) -> None:
    """Every spec here reads the same files for the same tasks."""
    tone, topic, held_out = (str(tmp_path / name) for name in ("tone", "topic", "held-out"))
    splits = [
        {"one": {"train": tone}, "two": {"train": topic}},
        {"two": {"train": tone}, "one": {"train": topic}},
        {"one": {"train": topic}, "two": {"train": tone}},
        {"one": {"train": tone, "validation": held_out}, "two": {"train": topic}},
        {"one": {"train": tone}, "two": {"train": held_out, "validation": topic}},
        {"one": {"train": tone, "validation": topic}, "two": {"train": held_out}},
    ]
    names = []
    for split in splits:
        heads = {name: {"task": "text-classification", "data": data} for name, data in split.items()}
        names.append(prepare({**raw, "heads": heads}).run_name)
    assert len(set(names[:3])) == 3
    assert len(set(names[3:])) == 3


def test_bundles_are_finished_when_all_of_them_are_of_this_run(raw: Raw) -> None:
    run = prepare(raw)
    assert run.finished_bundles() is None
    infos = {}
    for name in ("tone", "topic", "search"):
        assert run.finished_bundles() is None
        infos[name] = make_bundle(run.spec.output_of(name), run_fingerprint=run.fingerprint, metrics={"x": 1.0})
    assert run.finished_bundles() == infos
    assert run.replaced_bundles() == []
    other = make_bundle(run.spec.output_of("topic"), run_fingerprint="f" * 64)
    assert run.finished_bundles() is None
    place = f"{run.spec.output_of('topic')}: the bundle there, model_version {other.model_version}"
    assert run.replaced_bundles() == [f"{place} for {other.task}, will be replaced"]


def test_heads_trained_together_are_bundles_of_one_encoder(raw: Raw, tmp_path: Path) -> None:
    run = prepare(raw)
    written = train_alone(run, num_threads=1)
    assert run.finished_bundles() == written
    assert list(written) == ["tone", "topic", "search"]
    assert [info.task for info in written.values()] == ["text-classification", "text-classification", "embedding"]
    assert [info.labels for info in written.values()] == [LABELS, LABELS, ()]
    assert [bool(info.metrics) for info in written.values()] == [True, False, True]
    assert {info.run_fingerprint for info in written.values()} == {run.fingerprint}
    bundles = {name: fetch_bundle(run.spec.output_of(name), Storage()) for name in written}
    classes = {"search": "AutoModel"}
    networks = {
        name: load_network(bundle.path, classes.get(name, "AutoModelForSequenceClassification"))
        for name, bundle in bundles.items()
    }
    assert shares_encoder(networks["tone"], networks["topic"])
    assert shares_encoder(networks["tone"], networks["search"])
    assert not shares_encoder(networks["tone"], load_network(raw["model"], "AutoModel"))
    assert not networks["tone"].classifier.weight.equal(networks["topic"].classifier.weight)
    for name, corpus in (("tone", "held-out"), ("search", "pairs")):
        asked = {
            "bundle": run.spec.output_of(name),
            "corpus": {"uri": str(tmp_path / corpus)},
            "compute": raw["compute"],
        }
        found = evaluate_alone(prepare_evaluation(EvaluateSpec.model_validate(asked)), num_threads=1)
        assert found.metrics == pytest.approx(written[name].metrics, rel=1e-4)
