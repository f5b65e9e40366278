from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.rows import open_rows
from pipeline.corpus.shards import ShardSize
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions
from pipeline.errors import CorpusError, SpecError
from pipeline.finetune.labelled import (
    LabelledSet,
    LabelPlaces,
    LabelTarget,
    check_labels,
    open_split,
    read_split,
    read_usable,
)
from pipeline.finetune.token_cache import (
    TokenCacheJob,
    TokenCacheWriter,
    cache_file,
    check_cached,
    load_tokens,
    missing_shards,
)
from pipeline.storage import Storage
from pipeline.tasks import TASKS
from pipeline.tasks.base import Learned
from pipeline.tasks.text_classification import PairClassification, TextClassification
from tests.tiny import LABELS, make_encoder, make_tokenizer, write_corpus

STORAGE, TASK = Storage(), TextClassification()
TEXT = (("text",),)
PLACES = LabelPlaces("spec.yaml", "data")


def write(directory: Path, name: str = "a", **columns: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), directory / f"{name}.parquet")
    return directory


def open_directory(directory: Path) -> LabelledSet:
    return open_split((str(directory),), TASK, TEXT, LabelTarget("label"), STORAGE)


def writer_for(split: LabelledSet, cache: Path, tokenizer_directory: Path) -> TokenCacheWriter:
    options = TokenOptions(16)
    job = TokenCacheJob(str(tokenizer_directory), options, TASK.name, split.learned, split, str(cache), 1, STORAGE)
    return TokenCacheWriter(job, TextTokenizer(make_tokenizer(tokenizer_directory), options))


def test_a_split_knows_its_rows_labels_and_identity(tmp_path: Path) -> None:
    table = write_corpus(tmp_path / "train", num_files=3, rows_per_file=10)
    split = open_directory(tmp_path / "train")
    assert split.num_rows == table.num_rows
    assert split.learned == Learned(LABELS)
    assert split.fingerprint == open_directory(tmp_path / "train").fingerprint
    write_corpus(tmp_path / "train", num_files=1, rows_per_file=11, seed=7)
    assert open_directory(tmp_path / "train").fingerprint != split.fingerprint


def test_a_split_read_through_other_columns_is_another_one(tmp_path: Path) -> None:
    write(tmp_path, text=["x", "y"], title=["x", "y"], label=["a", "b"])
    prints = {
        open_split((str(tmp_path),), TASK, texts, LabelTarget(target), STORAGE).fingerprint
        for texts, target in (
            (TEXT, "label"),
            ((("title",),), "label"),
            (TEXT, "title"),
            ((("text", "title"),), "label"),
            ((("text",), ("title",)), "label"),
        )
    }
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ([pa.array([3, 10, 1])], ("1", "3", "10")),
        ([pa.array(["b", None, "a"])], ("a", "b")),
        ([pa.array(["b", "a"]), pa.array(["c", "a"]).dictionary_encode()], ("a", "b", "c")),
    ],
)
def test_labels_are_gathered_over_all_files(tmp_path: Path, columns: list[pa.Array], labels: tuple[str, ...]) -> None:
    for number, column in enumerate(columns):
        write(tmp_path, str(number), text=["x"] * len(column), label=column)
    assert open_directory(tmp_path).learned.labels == labels


def test_labels_beyond_the_type_they_share_are_no_unreadable_file(tmp_path: Path) -> None:
    write(tmp_path, text=["x", "y"], label=pa.array([0, 2**63], pa.uint64()))
    told = r"a\.parquet: column 'label' is uint64 and cannot be taken as int64: .*\n  -> store the targets"
    with pytest.raises(CorpusError, match=told):
        open_directory(tmp_path)


def test_a_split_without_rows_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, text=pa.array([], pa.string()), label=pa.array([], pa.string()))
    with pytest.raises(
        CorpusError, match=r"no rows in 1 files; expected at least one row\n  -> write rows to these files"
    ):
        open_directory(tmp_path)


def test_labels_that_validation_has_and_training_has_not_are_named(tmp_path: Path) -> None:
    train = open_directory(write(tmp_path / "train", text=["x"] * 3, label=["good", "bad", "good"]))
    validation = open_directory(write(tmp_path / "validation", text=["x"] * 3, label=["good", "worse", "worst"]))
    check_labels(TASK, train, None, PLACES)
    check_labels(TASK, train, train, PLACES)
    with pytest.raises(SpecError, match="labels never trained: 'worse', 'worst'; expected some of: bad, good"):
        check_labels(TASK, train, validation, PLACES)


@pytest.mark.parametrize(("labels", "named"), [(["a", "a"], "a"), ([None, None], "none")])
def test_one_label_is_not_enough(tmp_path: Path, labels: list[str | None], named: str) -> None:
    split = open_directory(write(tmp_path, text=["x", "y"], label=pa.array(labels, pa.string())))
    with pytest.raises(SpecError, match=f"column 'label' holds the labels: {named}; expected two labels or more"):
        check_labels(TASK, split, None, PLACES)


def test_of_training_rows_without_any_label_validation_is_not_blamed(tmp_path: Path) -> None:
    train = open_directory(write(tmp_path / "train", text=["x", "y"], label=pa.array([None, None], pa.string())))
    validation = open_directory(write(tmp_path / "validation", text=["x", "y"], label=["a", "b"]))
    with pytest.raises(SpecError, match=r"1 problem\n- .*holds the labels: none; expected two labels or more$"):
        check_labels(TASK, train, validation, PLACES)


@pytest.mark.parametrize(
    ("task", "targets", "found"),
    [
        ("multi-label", [[1, 0], [0, 1]], r"all of the labels \(if its lists hold a 0 or a 1 for each label"),
        ("multi-label", [["a", "b"], ["b", "a"]], "all of the labels"),
        ("multi-label", [["a", "b"], None], "all of the labels"),
        ("similarity", [3.0, 3.0], "the score 3"),
        ("similarity", [3, None], "the score 3"),
    ],
)
def test_training_rows_that_are_all_the_same_are_refused(
    tmp_path: Path, task: str, targets: list[Any], found: str
) -> None:
    write(tmp_path / "same", text=["x", "y"], target=targets)
    write(tmp_path / "other", text=["x", "y"], target=[targets[0], targets[0][:1] if task == "multi-label" else 1])
    same, other = (
        open_split((str(tmp_path / name),), TASKS[task], TEXT, LabelTarget("target"), STORAGE)
        for name in ("same", "other")
    )
    with pytest.raises(SpecError, match=f"column .target. has in every row {found}.*; expected rows that differ"):
        check_labels(TASKS[task], same, None, PLACES)
    check_labels(TASKS[task], other, same, PLACES)


def test_the_token_cache_holds_usable_rows_only(tmp_path: Path, tokenizer: Any) -> None:
    texts = ["good film", None, " ", "bad", "the film was dull", "great"]
    labels = ["positive", "positive", "negative", None, "negative", "positive"]
    split = open_directory(write(tmp_path / "train", text=texts, label=labels))
    (shard,) = split.shards
    receipt = writer_for(split, tmp_path / "cache", tmp_path / "tokenizer").process(shard)
    data = load_tokens([cache_file(str(tmp_path / "cache"), shard)], 1, STORAGE)
    expected = tokenizer(["good film", "the film was dull", "great"], truncation=True, max_length=16)["input_ids"]
    assert [data.rows.row(row).tolist() for row in range(len(data))] == expected
    assert data.targets.values.tolist() == [1, 0, 1]
    assert data.rows.truncated.tolist() == [False] * 3
    assert receipt.to_pylist() == [{"num_rows": 6, "num_tokens": len(data.rows.ids)}]


@pytest.mark.parametrize(("max_bad_fraction", "is_allowed"), [(0.0, False), (0.24, False), (0.25, True), (1.0, True)])
def test_rows_without_text_or_label_are_counted_from_the_cache(
    tmp_path: Path, max_bad_fraction: float, is_allowed: bool
) -> None:
    texts, labels = ["x", "y", None, "z"] * 2, ["a", "b", "a", "b"] * 2
    split, cache = open_directory(write(tmp_path / "train", text=texts, label=labels)), str(tmp_path / "cache")
    writer_for(split, tmp_path / "cache", tmp_path / "tokenizer").process(split.shards[0])
    expected = contextlib.nullcontext() if is_allowed else pytest.raises(CorpusError, match="2 of 8 labelled rows")
    with expected as caught:
        check_cached(split, cache, max_bad_fraction, STORAGE)
    assert (caught is None) == is_allowed


def test_a_cache_is_filled_once_and_read_in_shard_order(tmp_path: Path, tokenizer: Any) -> None:
    table = write_corpus(tmp_path / "train", num_files=4, rows_per_file=7)
    split = open_directory(tmp_path / "train")
    cache = str(tmp_path / "cache")
    writer = writer_for(split, tmp_path / "cache", tmp_path / "tokenizer")
    assert missing_shards(split, cache, STORAGE) == list(split.shards)
    for shard in reversed(split.shards):
        writer.process(shard)
    assert missing_shards(split, cache, STORAGE) == []
    data = load_tokens([cache_file(cache, shard) for shard in split.shards], 1, STORAGE)
    assert data.targets.values.tolist() == [LABELS.index(label) for label in table["label"].to_pylist()]
    expected = tokenizer(table["text"].to_pylist(), truncation=True, max_length=16)["input_ids"]
    assert [data.rows.row(row).tolist() for row in range(len(data))] == expected


def test_tokenising_a_shard_twice_writes_the_same_rows(tmp_path: Path) -> None:
    write_corpus(tmp_path / "train", num_files=1)
    split = open_directory(tmp_path / "train")
    writer = writer_for(split, tmp_path / "cache", tmp_path / "tokenizer")
    path = Path(cache_file(str(tmp_path / "cache"), split.shards[0]))
    writer.process(split.shards[0])
    first = pq.read_table(path)
    writer.process(split.shards[0])
    assert pq.read_table(path).equals(first)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_label_that_was_not_learned_is_left_out_and_counted(tmp_path: Path) -> None:
    split = open_directory(write(tmp_path / "train", text=["x", "y"], label=["a", "b"]))
    split = replace(split, learned=Learned(("b",)))
    cache = str(tmp_path / "cache")
    writer_for(split, tmp_path / "cache", tmp_path / "tokenizer").process(split.shards[0])
    data = load_tokens([cache_file(cache, split.shards[0])], 1, STORAGE)
    assert data.targets.values.tolist() == [0]
    with pytest.raises(CorpusError, match=r"1 of 2 labelled rows(.|\n)*row 0: label is unknown"):
        check_cached(split, cache, 0.0, STORAGE)


def test_no_cache_files_give_no_rows() -> None:
    assert len(load_tokens([], 1, STORAGE)) == 0


def test_a_shard_without_usable_rows_takes_no_segments_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.finetune.labelled.open_rows", partial(open_rows, size=ShardSize(rows=2, bytes=1)))
    pair, cache = PairClassification(), str(tmp_path / "cache")
    for name, labels in (("a", ["x", "y"]), ("b", [None, None])):
        pair_labels = pa.array(labels, pa.string())
        write(tmp_path / "train", name, text_a=["good film", "it"], text_b=["bad", "was"], label=pair_labels)
    split = open_split((str(tmp_path / "train"),), pair, (("text_a", "text_b"),), LabelTarget("label"), STORAGE)
    assert len(split.shards) == 4
    model = str(make_encoder(tmp_path / "encoder"))
    job = TokenCacheJob(model, TokenOptions(16), pair.name, split.learned, split, cache, 1, STORAGE)
    for shard in split.shards:
        job.build().process(shard)
    data = load_tokens([cache_file(cache, shard) for shard in split.shards], 1, STORAGE)
    assert data.rows.type_ids is not None
    assert data.rows.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert data.targets.values.tolist() == [0, 1]


def test_a_label_may_be_a_field_of_a_struct(tmp_path: Path) -> None:
    rows = {"text": ["x", "y"], "doc": [{"label": "b"}, {"label": "a"}]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    split = open_split((str(tmp_path),), TASK, TEXT, LabelTarget("doc.label"), STORAGE)
    assert split.learned.labels == ("a", "b")
    assert read_usable(split.shards[0], split, TASK, split.learned, STORAGE).targets.to_pylist() == ["b", "a"]


def test_hives_null_is_no_label(tmp_path: Path) -> None:
    for folder in ("label=a", "label=b", "label=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / folder / "1.parquet")
    split = open_directory(tmp_path)
    assert split.learned.labels == ("a", "b")
    with pytest.raises(CorpusError, match=r"2 of 6 labelled rows .*\n- .* row 0: label is null\n- .* row 1:"):
        read_split(split, TASK, split.learned, 0.1, STORAGE)


def test_targets_that_cannot_be_read_name_their_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    pq.write_table(pa.table({"text": ["x"] * 99, "label": [str(row) for row in range(99)]}), path, compression="zstd")
    metadata = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = metadata.dictionary_page_offset
    content[start : start + metadata.total_compressed_size] = b"x" * metadata.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"broken\.parquet: column 'label' cannot be read: "):
        open_directory(tmp_path)


def test_a_target_column_of_another_type_is_told_with_its_type(tmp_path: Path) -> None:
    rows = pa.table({"text": ["a b"], "tags": [[{"begin": 0, "end": 1, "label": "x"}]]})
    pq.write_table(rows, tmp_path / "1.parquet")
    task, learned = TASKS["token-classification"], Learned(("O", "B-x", "I-x"))
    split = open_split((str(tmp_path),), task, TEXT, LabelTarget("tags", learned), STORAGE)
    with pytest.raises(CorpusError, match=r"column 'tags' is list<.*>, of no use to task token-classification"):
        read_split(split, task, learned, 0.1, STORAGE)
