"""Nights scored by the product, scored again by plain transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
)

from pipeline.encoder.loading import load_tokenizer
from pipeline.errors import CorpusError, ModelError, SpecError
from pipeline.inference.publish import publish_run
from pipeline.inference.reference import FreshRow, PlainWindow
from pipeline.inference.span_closeness import compare_entities
from pipeline.inference.tolerance import Tolerance
from pipeline.inference.verify import RescoredSample, SampleCheck, rescore_sample
from pipeline.storage import Storage
from tests.tiny import LABELS, make_bundle, make_tokenizer, tiny_config, write_corpus
from tests.unit.inference.scoring import NIGHT, prepared, score_all

STORAGE = Storage()
LONG = " ".join(["good film and bad plot"] * 20)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """60 short texts, one long one, in columns text, words, body and other."""
    write_corpus(tmp_path / "corpus", num_files=3)
    for path in (tmp_path / "corpus").iterdir():
        rows = pq.read_table(path)
        rows = rows.append_column("body", rows["text"]).append_column("other", rows["label"])
        rows = rows.append_column("words", pc.split_pattern(rows["text"], " "))
        pq.write_table(rows, path, row_group_size=8)
    texts = {"id": ["long"], "text": [LONG], "label": ["x"], "body": [LONG], "other": ["x"], "words": [LONG.split()]}
    pq.write_table(pa.table(texts), tmp_path / "corpus" / "part-long.parquet")
    return tmp_path / "corpus"


def score(bundle: Path, corpus: Path, /, **changes: Any) -> str:
    """A published night; returns the table."""
    run = prepared(bundle, corpus, corpus.parent / "table", **{"corpus": {"keep": ["id"], "shard_rows": 8}, **changes})
    publish_run(run, score_all(run), "run-1", time.monotonic())
    return run.ledger.table_uri


def rescore(table: str, bundle: Path, num_rows: int = 100, **changes: Any) -> RescoredSample:
    return rescore_sample(table, NIGHT, SampleCheck(str(bundle), num_rows, **changes), STORAGE)


def test_a_hive_key_that_was_scored_is_found_again(tmp_path: Path, bundle_directory: Path) -> None:
    folder = tmp_path / "corpus" / "topic=a good film"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["1", "2"]}), folder / "a.parquet")
    table = score(bundle_directory, tmp_path / "corpus", corpus={"inputs": {"text": "topic"}})
    found = rescore(table, bundle_directory, inputs={"text": "topic"})
    assert (found.num_rows, found.problems) == (2, ())
    with pytest.raises(CorpusError, match="no column 'text'; it has id, topic") as caught:
        rescore(table, bundle_directory)
    assert caught.value.remedy == "name the column that the rows were scored from: --input INPUT=COLUMN"


def spoil(table: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every stored row, as a mistake in scoring would have."""
    for path in Path(table, f"run_date={NIGHT}").glob("*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist([change(row) for row in rows.to_pylist()], rows.schema), path)


def assert_close(found: RescoredSample, num_rows: int = 61) -> None:
    assert found.problems == ()
    assert found.num_rows == num_rows
    assert found.min_cosine is not None
    assert found.min_cosine > 1 - 1e-6


def network(labels: tuple[str, ...], **changes: Any) -> Any:
    config = tiny_config(labels)
    for name, value in changes.items():
        setattr(config, name, value)
    return BertForSequenceClassification(config).eval()


TAGS = ("O", "B-a", "I-a")


def tagger(kind: Any) -> Any:
    """A network with a head over tokens, of which some say one thing and some another."""
    torch.manual_seed(3)
    return kind(tiny_config(TAGS if kind is BertForTokenClassification else ("start", "end"))).eval()


def make_kind(directory: Path, kind: str) -> None:
    changes = dict(BUNDLES[kind])
    make_bundle(directory, changes.pop("labels", LABELS), **changes)


BUNDLES: dict[str, dict[str, Any]] = {
    "truncate": {},
    "window": {"long_text": "window", "stride": 4},
    "cls": {"pooling": "cls", "normalize": False},
    "max of windows": {"pooling": "max", "long_text": "window", "stride": 0},
    "pair": {"task": "pair-classification", "inputs": {"text_a": "text", "text_b": "other"}},
    "multi-label": {"task": "multi-label", "options": {"threshold.neutral": 0.3}},
    "similarity": {
        "task": "similarity",
        "inputs": {"text_a": "text", "text_b": "other"},
        "labels": (),
        "options": {"low": 1.0, "high": 5.0},
        "network": network(("similarity",)),
    },
    "similarity without a sigmoid": {
        "task": "similarity",
        "inputs": {"text_a": "text", "text_b": "other"},
        "labels": (),
        "options": {"low": 0.0, "high": 1.0, "sigmoid": 0.0},
        "network": network(("similarity",)),
    },
    "embedding": {"task": "embedding", "labels": (), "network": BertModel(tiny_config()).eval()},
    "tags": {"task": "token-classification", "labels": TAGS, "network": tagger(BertForTokenClassification)},
    "windows of tags": {
        "task": "token-classification",
        "inputs": {"text": "words"},
        "labels": TAGS,
        "network": tagger(BertForTokenClassification),
        "long_text": "window",
        "stride": 4,
    },
    "answers": {
        "task": "question-answering",
        "inputs": {"question": "other", "context": "text"},
        "labels": (),
        "network": tagger(BertForQuestionAnswering),
        "options": {"may_decline": 1.0, "null_threshold": 0.5},
        "stride": 4,
    },
    "answers to long questions": {
        "task": "question-answering",
        "inputs": {"question": "body", "context": "text"},
        "labels": (),
        "network": tagger(BertForQuestionAnswering),
        "options": {"may_decline": 0.0, "null_threshold": 0.0},
        "stride": 4,
    },
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_what_was_scored_is_found_again(tmp_path: Path, corpus: Path, kind: str) -> None:
    make_kind(tmp_path / "bundle", kind)
    found = rescore(score(tmp_path / "bundle", corpus), tmp_path / "bundle")
    assert_close(found)
    assert (found.max_score_difference is not None) == (kind != "embedding")
    assert (found.max_score_difference or 0) < 1e-5
    assert {"embedding", "num_tokens", "truncated"} <= set(found.compared)


@pytest.mark.parametrize("kind", ["pair", "embedding", "tags", "windows of tags", "answers to long questions"])
def test_what_was_cut_on_the_left_is_found_again(
    tmp_path: Path, corpus: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_left(directory: Path) -> Any:
        make_tokenizer(directory)
        return BertTokenizerFast.from_pretrained(str(directory), truncation_side="left")

    monkeypatch.setattr("tests.tiny.make_tokenizer", make_left)
    make_kind(tmp_path / "bundle", kind)
    assert load_tokenizer(tmp_path / "bundle").truncation_side == "left"
    assert_close(rescore(score(tmp_path / "bundle", corpus), tmp_path / "bundle"))


def other_label(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "label": LABELS[(LABELS.index(row["label"]) + 1) % 3]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_label, "fp32 says"),
        (lambda row: {**row, "label": "furious"}, "label 'furious' is none of the bundle's"),
        (lambda row: {**row, "score": row["score"] - 0.06}, "score differs by 0.0600 from fp32"),
        (lambda row: {**row, "class_scores": [1.0, 0.0, 0.0]}, "class_scores differs by"),
        (lambda row: {**row, "class_scores": row["class_scores"][:2]}, "expected 3 numbers"),
        (lambda row: {**row, "embedding": row["embedding"][::-1]}, "embedding has cosine"),
        (lambda row: {**row, "embedding": row["embedding"][:5]}, "embedding has 5 numbers, now 32"),
        (lambda row: {**row, "embedding": [2 * x for x in row["embedding"]]}, "embedding has length 2.0000"),
        (lambda row: {**row, "num_tokens": row["num_tokens"] + 1}, "num_tokens is"),
        (lambda row: {**row, "truncated": not row["truncated"]}, "truncated is"),
    ],
)
def test_a_wrong_number_is_found(
    bundle_directory: Path, corpus: Path, change: Callable[[dict[str, Any]], dict[str, Any]], expected: str
) -> None:
    table = score(bundle_directory, corpus)
    spoil(table, change)
    problems = rescore(table, bundle_directory).problems
    assert any(expected in problem for problem in problems)
    assert len(problems) > 10
    assert f"{corpus}/part-0.parquet row 0: " in "\n".join(problems)


def moved(entity: dict[str, Any]) -> dict[str, Any]:
    return {**entity, "start": entity["start"] + 1, "end": entity["end"] + 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda entities: entities[1:], "is missing"),
        (lambda entities: [{**item, "label": "b"} for item in entities], "is stored, fp32 has none"),
        (lambda entities: [moved(item) for item in entities], "the text has"),
        (lambda entities: [{**item, "score": item["score"] - 0.06} for item in entities], "differs by 0.0600"),
    ],
)
@pytest.mark.parametrize("kind", ["tags", "windows of tags"])
def test_wrong_entities_are_found(
    tmp_path: Path, corpus: Path, kind: str, change: Callable[[list[dict[str, Any]]], object], expected: str
) -> None:
    make_kind(tmp_path / "bundle", kind)
    table = score(tmp_path / "bundle", corpus)
    spoil(table, lambda row: {**row, "entities": change(row["entities"])})
    problems = rescore(table, tmp_path / "bundle").problems
    assert sum(expected in problem for problem in problems) > 10


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answer": "", "start": None, "end": None, "is_answerable": False}, "is_answerable is False, fp32 says True"),
        ({"answer": "nonsense"}, "answer is 'nonsense', the text has"),
        ({"start": 0, "end": 1, "answer": "t"}, "answer is 't', fp32 says"),
        ({"score": 0.0}, "score differs by"),
    ],
)
def test_wrong_answers_are_found(tmp_path: Path, corpus: Path, change: dict[str, Any], expected: str) -> None:
    make_kind(tmp_path / "bundle", "answers")
    table = score(tmp_path / "bundle", corpus)
    spoil(table, lambda row: {**row, **change} if row["is_answerable"] else row)
    problems = rescore(table, tmp_path / "bundle").problems
    assert any(expected in problem for problem in problems)


def test_rows_in_the_wrong_order_are_found(bundle_directory: Path, corpus: Path) -> None:
    """The mistake that batching by length could make: every row has another row's scores."""
    table = score(bundle_directory, corpus)
    for path in Path(table, f"run_date={NIGHT}").glob("*.parquet"):
        rows = pq.read_table(path)
        for name in ("label", "score", "class_scores", "embedding"):
            turned = rows[name].to_pylist()
            values = pa.array(turned[1:] + turned[:1], rows.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
        pq.write_table(rows, path)
    assert any("embedding has cosine" in problem for problem in rescore(table, bundle_directory).problems)


def test_labels_may_differ_where_two_are_nearly_as_probable(tmp_path: Path, corpus: Path) -> None:
    flat = network(LABELS)
    with torch.no_grad():
        flat.classifier.weight.mul_(1e-4)
        flat.classifier.bias.zero_()
    make_bundle(tmp_path / "bundle", network=flat)
    table = score(tmp_path / "bundle", corpus)
    spoil(table, other_label)
    found = rescore(table, tmp_path / "bundle")
    assert found.problems == ()
    assert found.num_near_ties == 61


@pytest.mark.parametrize(
    ("york", "place", "num_problems"),
    [
        ((0.40, 0.19, 0.41), (0, 3), 0),  # "New York" or "New"
        ((0.19, 0.40, 0.41), (0, 3), 0),  # the tie may be of any two tags
        ((0.19, 0.10, 0.71), (0, 3), 2),  # no tie
        ((0.40, 0.19, 0.41), (14, 18), 1),  # "Hall" is not beside the tie
    ],
)
def test_a_tie_beside_an_entity_may_move_its_edge(
    york: tuple[float, ...], place: tuple[int, int], num_problems: int
) -> None:
    text, sure = "New York City Hall", (0.9, 0.05, 0.05)
    tags = np.log([sure, (0.05, 0.9, 0.05), york, sure, sure, sure])
    spans = np.array([[-1, -1], [0, 3], [4, 8], [9, 13], [14, 18], [-1, -1]])
    fresh = FreshRow(
        np.zeros(0), np.zeros(0), 6, False, text, False, (PlainWindow(tags, spans, np.array([-1, 0, 1, 2, 3, -1])),)
    )
    start, end = place
    stored = [{"text": text[start:end], "label": "LOC", "start": start, "end": end, "score": 0.9}]
    found = compare_entities(stored, fresh, ("O", "B-LOC", "I-LOC"), Tolerance())
    assert len(found.problems) == num_problems
    assert found.num_near_ties == 2 - num_problems


def test_multi_labels_that_are_missing_are_found(tmp_path: Path, corpus: Path) -> None:
    make_bundle(tmp_path / "bundle", task="multi-label")
    table = score(tmp_path / "bundle", corpus)
    spoil(table, lambda row: {**row, "labels": [label for label in LABELS if label not in row["labels"]]})
    problems = "\n".join(rescore(table, tmp_path / "bundle").problems)
    assert "is missing, fp32 is +" in problems
    assert "is there, fp32 is -" in problems


def test_columns_of_another_name_are_told_on_the_command_line(bundle_directory: Path, corpus: Path) -> None:
    block = {"keep": ["id"], "inputs": {"text": "body"}}
    table = score(bundle_directory, corpus, corpus=block)
    for path in corpus.iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    with pytest.raises(CorpusError, match="no column 'text'") as caught:
        rescore(table, bundle_directory)
    assert "--input" in caught.value.remedy
    assert_close(rescore(table, bundle_directory, inputs={"text": "body"}))
    with pytest.raises(SpecError, match="'txt' is no input"):
        rescore(table, bundle_directory, inputs={"txt": "body"})


def test_a_sample_is_spread_and_the_same_each_time(bundle_directory: Path, corpus: Path) -> None:
    table = score(bundle_directory, corpus)
    spoil(table, lambda row: {**row, "num_tokens": 0})
    first, again = rescore(table, bundle_directory, 12), rescore(table, bundle_directory, 12)
    assert first == again
    assert (first.num_rows, len(first.problems)) == (12, 12)
    assert len({problem.split(" row ")[0] for problem in first.problems}) >= 3


def test_another_bundle_than_the_nights_is_refused(tmp_path: Path, bundle_directory: Path, corpus: Path) -> None:
    table = score(bundle_directory, corpus)
    make_bundle(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="the night was scored with"):
        rescore(table, tmp_path / "other")
    with pytest.raises(ModelError, match=r"none of the columns .* \(mood_label"):
        rescore(table, bundle_directory, bundle_name="mood")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "cannot be read again"),
        (lambda path: path.write_bytes(b"junk"), "cannot be read again"),
        (lambda path: pq.write_table(pq.read_table(path).slice(0, 1), path), "has 1 rows, and the night names row"),
    ],
)
def test_a_corpus_that_is_not_as_it_was_is_named(
    bundle_directory: Path, corpus: Path, change: Callable[[Path], object], message: str
) -> None:
    table = score(bundle_directory, corpus)
    change(corpus / "part-1.parquet")
    with pytest.raises(CorpusError, match=rf"part-1\.parquet: {message}"):
        rescore(table, bundle_directory)


def test_one_of_several_bundles_is_told_by_its_name(tmp_path: Path, bundle_directory: Path, corpus: Path) -> None:
    make_bundle(tmp_path / "mood", ("calm", "cross"), seed=1, max_length=16)
    bundles = {"tone": str(bundle_directory), "mood": str(tmp_path / "mood")}
    table = score(bundle_directory, corpus, bundle=bundles)
    found = rescore(table, tmp_path / "mood", bundle_name="mood")
    assert_close(found)
    assert found.compared[0] == "mood_label"
    assert_close(rescore(table, bundle_directory, bundle_name="tone"))
    with pytest.raises(ModelError, match="the night was scored with"):
        rescore(table, bundle_directory, bundle_name="mood")
