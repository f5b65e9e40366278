"""Results copied from texts scored before: the same rows with the same values as without, for less work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable
from transformers import AutoTokenizer

from pipeline.inference.predictor import Predictor
from pipeline.inference.reuse import hash_texts
from pipeline.inference.source import TextSource
from pipeline.output.compact import compact_night
from pipeline.output.texts import HashedFile, TextStore
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.storage import Storage
from tests.tiny import make_bundle, make_network, make_rows
from tests.unit.inference.bundles import write_family
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import prepared, score_all

D20, D21, D22 = "2026-11-20", "2026-11-21", "2026-11-22"
STORAGE = Storage()
TEXTS = [f"{word} film number {number}" for number in range(25) for word in ("good", "bad")]
OWN = {"run_id", "run_date", "source_file"}


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    """Nights that hold the whole corpus, with reuse."""
    corpus = {"keep": ["id"], "shard_rows": 20, "max_bad_fraction": 0.5}
    return Story(tmp_path, bundle_directory, blocks={"reuse": "text-hash", "corpus": corpus})


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of the model."""
    found: list[int] = []
    predict: Callable[..., Any] = Predictor.predict

    def count(self: Predictor, rows: pa.Table, *others: Any) -> Any:
        found.append(rows.num_rows)
        return predict(self, rows, *others)

    monkeypatch.setattr(Predictor, "predict", count)
    return found


def put(story: Story, name: str, texts: list[str | None]) -> None:
    story.corpus.mkdir(parents=True, exist_ok=True)
    ids = [f"{name}-{row}" for row in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": pa.array(texts, pa.string())}), story.corpus / f"{name}.parquet")


def rows_of(table: Path, night: str) -> list[dict[str, Any]]:
    """A night's rows by corpus file and row, without what every run writes anew."""
    rows = DeltaTable(table).to_pyarrow_table(partitions=[("run_date", "=", night)]).to_pylist()
    rows.sort(key=lambda row: (Path(row["source_file"]).name, row["source_row"]))
    return [{key: value for key, value in row.items() if key not in OWN} for row in rows]


def assert_as_without_reuse(story: Story, night: str) -> None:
    """Every row of a night is there with the values that a run without reuse gives it."""
    plain = Story(story.root / f"plain-{night}", story.bundle, blocks={**story.blocks, "reuse": "none"})
    plain.root.mkdir()
    plain.corpus.symlink_to(story.corpus)
    plain.night(night)
    expected, found = rows_of(plain.table, night), rows_of(story.table, night)
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, float | list):
                np.testing.assert_allclose(ours[key], value, atol=1e-6)
            else:
                assert ours[key] == value, key
    assert story.verify(night) == ()


def test_a_corpus_under_other_names_is_copied_and_not_computed(story: Story, computed: list[int]) -> None:
    put(story, "a", [*TEXTS[:30], None])
    first = story.night(D20)
    assert (first.num_reused_rows, sum(computed)) == (0, 30)
    computed.clear()
    (story.corpus / "a.parquet").rename(story.corpus / "z.parquet")
    second = story.night(D21)
    assert sum(computed) == 0
    assert (second.num_scored_rows, second.num_quarantined_rows, second.num_reused_rows) == (30, 1, 30)
    assert (second.num_reused_rows_this_run, second.num_tokens_this_run) == (30, 0)
    assert second.num_truncated_rows == first.num_truncated_rows
    assert_as_without_reuse(story, D21)
    assert {row["run_id"] for row in DeltaTable(story.table).to_pyarrow_table().to_pylist()} == {"run-1"}


def test_of_a_changed_file_only_new_texts_are_computed(story: Story, computed: list[int]) -> None:
    put(story, "a", list(TEXTS))
    story.night(D20)
    computed.clear()
    put(story, "a", ["a new one", *reversed(TEXTS), "another"])
    report = story.night(D21)
    assert sum(computed) == 2
    assert report.num_reused_rows == len(TEXTS)
    assert_as_without_reuse(story, D21)


def test_equal_texts_of_a_shard_are_computed_once(story: Story, computed: list[int]) -> None:
    put(story, "a", ["same", "other", "same", None, "same", "other", "third"])
    report = story.night(D20)
    assert sum(computed) == 3
    assert report.num_reused_rows == 3
    assert_as_without_reuse(story, D20)


def test_where_nothing_is_shared_values_are_bit_for_bit_those_without_reuse(story: Story, tmp_path: Path) -> None:
    put(story, "a", list(TEXTS))
    story.night(D20)
    plain = Story(tmp_path / "plain", story.bundle, blocks={**story.blocks, "reuse": "none"})
    plain.root.mkdir()
    plain.corpus.symlink_to(story.corpus)
    plain.night(D20)
    assert rows_of(story.table, D20) == rows_of(plain.table, D20)
    assert not list(plain.table.glob("_bertmill/texts/**/*.hashes"))


@pytest.mark.parametrize("harm", ["file gone", "file broken", "other file", "hashes broken", "hashes gone"])
def test_what_cannot_be_copied_is_computed(story: Story, computed: list[int], harm: str) -> None:
    put(story, "a", list(TEXTS))
    story.night(D20)
    paths = sorted(story.table.glob(f"run_date={D20}/*.parquet"))
    notes = sorted(story.table.glob("_bertmill/texts/**/*.hashes"))
    assert len(paths) == len(notes) == 3
    num_rows = pq.read_metadata(paths[0]).num_rows
    if harm == "file gone":
        paths[0].unlink()
    elif harm == "file broken":
        paths[0].write_bytes(paths[0].read_bytes()[:500])
    elif harm == "other file":
        pq.write_table(pq.read_table(paths[0], partitioning=None).replace_schema_metadata({}), paths[0])
    elif harm == "hashes broken":
        notes[0].write_bytes(b"junk")
    else:
        notes[0].unlink()
    computed.clear()
    assert story.night(D21).num_reused_rows == len(TEXTS) - num_rows
    assert sum(computed) == num_rows
    assert_as_without_reuse(story, D21)


def test_a_row_group_is_not_read_for_a_few_rows(story: Story, computed: list[int]) -> None:
    story.blocks["corpus"] = {"keep": ["id"], "shard_rows": 1_000}
    put(story, "a", [f"{number} film" for number in range(300)])
    story.night(D20)
    computed.clear()
    put(story, "a", ["1 film", "2 film", "none"])
    assert story.night(D21).num_reused_rows == 0
    put(story, "a", ["3 film", "4 film", "5 film", "other"])
    computed.clear()
    assert story.night(D22).num_reused_rows == 3
    assert sum(computed) == 1


def test_a_rescored_night_and_another_model_copy_nothing(story: Story, computed: list[int], tmp_path: Path) -> None:
    put(story, "a", list(TEXTS))
    story.night(D20)
    computed.clear()
    assert story.night(D21, rescore=True).num_reused_rows == 0
    assert sum(computed) == len(TEXTS)
    make_bundle(tmp_path / "other", network=make_network(seed=5))
    story.bundle = tmp_path / "other"
    computed.clear()
    assert story.night(D22).num_reused_rows == 0
    assert sum(computed) == len(TEXTS)


def test_rows_without_finite_numbers_are_quarantined_every_time(tmp_path: Path, computed: list[int]) -> None:
    network = make_network()
    make_bundle(tmp_path / "plain")
    token = AutoTokenizer.from_pretrained(tmp_path / "plain").convert_tokens_to_ids("dull")
    with torch.no_grad():
        network.base_model.embeddings.word_embeddings.weight[token] = float("nan")
    make_bundle(tmp_path / "poisoned", network=network)
    blocks = {"reuse": "text-hash", "corpus": {"keep": ["id"], "max_bad_fraction": 0.9}}
    story = Story(tmp_path, tmp_path / "poisoned", blocks=blocks)
    put(story, "a", ["a dull film", "a good film", "a dull film", "superb"])
    first = story.night(D20)
    put(story, "a", ["superb", "a dull film", "a good film"])
    computed.clear()
    second = story.night(D21)
    assert [(report.num_scored_rows, report.num_quarantined_rows) for report in (first, second)] == [(2, 2), (2, 1)]
    assert sum(computed) == 1
    assert story.verify(D21) == ()


def test_several_bundles_copy_all_of_their_columns(tmp_path: Path, computed: list[int]) -> None:
    family = write_family(tmp_path / "bundles")
    (tmp_path / "corpus").mkdir()
    pq.write_table(make_rows(30), tmp_path / "corpus" / "a.parquet")
    runs = []
    for bundle_reuse in ("text-hash", "text-hash", "none"):
        output = tmp_path / ("plain" if bundle_reuse == "none" else "table")
        corpus = {"keep": ["id"], "max_bad_fraction": 1.0}
        run = prepared(tmp_path, tmp_path / "corpus", output, bundle=family, corpus=corpus, reuse=bundle_reuse)
        computed.clear()
        (record,) = score_all(run)
        assert record.path is not None
        runs.append((record, pq.read_table(output / record.path, partitioning=None).drop_columns(["run_id"])))
        run.ledger.drop([record.shard])
    num_unique = len(set(make_rows(30)["text"].to_pylist()))
    assert [record.num_reused_rows for record, _ in runs] == [30 - num_unique, 30, 0]
    assert len({record.num_truncated_rows for record, _ in runs}) == 1
    assert runs[0][1].equals(runs[1][1])
    assert runs[1][1].schema.equals(runs[2][1].schema)
    for name in runs[2][1].column_names:
        ours, theirs = (runs[number][1][name].to_pylist() for number in (1, 2))
        if name.endswith(("embedding", "class_scores", "_score")):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        elif not name.endswith("entities"):
            assert ours == theirs, name


def test_a_vacuum_takes_the_hashes_of_the_files_that_go(story: Story, computed: list[int]) -> None:
    story.output = {"mode": "snapshot"}
    put(story, "a", list(TEXTS))
    story.night(D20)
    put(story, "a", TEXTS[:30])
    story.night(D21)
    notes = set(story.table.glob("_bertmill/texts/**/*.hashes"))
    for _ in range(3):
        for path in story.table.rglob("*"):
            if path.is_file() and "_delta_log" not in path.parts:
                os.utime(path, (1, 1))
        vacuum_table(str(story.table), VacuumOptions(retention_s=0, safety_s=0), STORAGE)
    names = {path.stem for path in story.table.glob("run_date=*/*.parquet")}
    left = set(story.table.glob("_bertmill/texts/**/*.hashes"))
    assert {path.stem for path in left} == names
    assert len(left) < len(notes)
    computed.clear()
    put(story, "b", TEXTS[10:40])
    assert story.night(D22).num_reused_rows_this_run == 20
    assert sum(computed) == 10
    assert story.verify(D22) == ()


def test_pairs_are_told_apart_by_where_one_text_ends() -> None:
    rows = pa.table(
        {
            "input=a": pa.chunked_array([["ab", "a"], ["ab"]], pa.large_string()),
            "input=b": pa.chunked_array([["c", "bc", "c"]], pa.large_string()),
        }
    )
    source = {"": TextSource(("a", "b"))}
    hashes = hash_texts(rows, source)
    assert hashes.shape == (3, 2)
    assert (hashes[0] == hashes[2]).all()
    assert not (hashes[0] == hashes[1]).any()
    assert (hash_texts(rows.slice(1), source) == hashes[1:]).all()
    words = hash_texts(rows, {"": TextSource(("a", "b"), are_words=True)})
    assert not (words == hashes).any()
    assert hash_texts(rows.slice(0, 0), source).shape == (0, 2)


def test_a_compacted_night_is_copied_from(story: Story, computed: list[int]) -> None:
    put(story, "a", list(TEXTS))
    story.night(D20)
    compact_night(str(story.table), D20, 1_000_000, STORAGE)
    (merged,) = story.live(D20)
    fingerprint = story.prepare(D20).ledger.fingerprint
    assert TextStore(str(story.table), fingerprint, STORAGE).read(HashedFile(merged, len(TEXTS))) is not None
    for path in story.table.glob(f"run_date={D20}/*.parquet"):
        if not path.name.startswith("compacted-"):
            path.unlink()
    computed.clear()
    story.night(D21)
    assert sum(computed) == 0
    assert_as_without_reuse(story, D21)
