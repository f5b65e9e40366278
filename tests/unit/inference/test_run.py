"""Preparing, accounting and publishing, which need no Ray; streaming is tested in tests/flow."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.errors import AccountingError, CorpusError, OutputTakenError, TooManyBadRowsError
from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import RunReport, publish_run
from pipeline.inference.run import run_id_for
from pipeline.output.ledger import DoneRecord
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.storage import Storage
from tests.tiny import make_bundle, make_rows, write_corpus
from tests.unit.inference.scoring import NIGHT, files_below, prepared, score_all, score_spec


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", num_files=4, rows_per_file=15)
    return tmp_path / "corpus"


def open_run(bundle: Path, corpus: Path, shard_rows: int = 15, **changes: object) -> PreparedRun:
    block = {"shard_rows": shard_rows, "keep": ["id"], **changes}
    return prepared(bundle, corpus, corpus.parent / "table", corpus=block)


def finish(run: PreparedRun, run_id: str = "run-1") -> RunReport:
    return publish_run(run, score_all(run, run_id), run_id, time.monotonic())


def published_ids(corpus: Path) -> list[str]:
    return sorted(DeltaTable(corpus.parent / "table").to_pyarrow_table()["id"].to_pylist())


def test_preparing_writes_nothing(bundle_directory: Path, corpus: Path) -> None:
    run = open_run(bundle_directory, corpus)
    assert (run.plan.num_rows, run.plan.num_pending_rows, run.is_published) == (60, 60, False)
    assert not (corpus.parent / "table").exists()


def test_a_night_holds_every_row_once(bundle_directory: Path, corpus: Path) -> None:
    report = finish(open_run(bundle_directory, corpus))
    everything = sorted(pq.read_table(corpus)["id"].to_pylist())
    assert published_ids(corpus) == everything
    assert (report.num_rows, report.num_scored_rows, report.num_quarantined_rows) == (60, 60, 0)
    assert report.published


def test_what_a_night_shows_no_more_goes_with_a_vacuum(bundle_directory: Path, corpus: Path) -> None:
    finish(open_run(bundle_directory, corpus))
    changed = sorted(corpus.glob("*.parquet"))[0]
    pq.write_table(make_rows(15, 9), changed)
    finish(open_run(bundle_directory, corpus), "run-2")
    table = corpus.parent / "table"
    scored = set(table.glob("run_date=*/*.parquet"))
    for path in scored:
        os.utime(path, (1, 1))
    vacuum_table(str(table), VacuumOptions(retention_s=0, safety_s=0), Storage())
    shown = {Path(uri) for uri in DeltaTable(table).file_uris()}
    assert (len(scored), len(shown), set(table.glob("run_date=*/*.parquet"))) == (5, 4, shown)
    assert published_ids(corpus) == sorted(pq.read_table(corpus)["id"].to_pylist())


def test_a_kept_column_of_two_types_can_be_left_out(bundle_directory: Path, corpus: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "id": [1]}), corpus / "other.parquet")
    with pytest.raises(CorpusError, match="a column's type does not fit the files before it") as caught:
        open_run(bundle_directory, corpus)
    assert caught.value.remedy.startswith("leave the column out of `corpus.keep`")


def score_night(bundle: Path, root: Path, night: str, row: dict[str, pa.Array]) -> None:
    """A night of one file, that keeps all of its columns."""
    (root / night).mkdir()
    pq.write_table(pa.table({"text": ["a text"], **row}), root / night / "a.parquet")
    finish(prepare_run(score_spec(bundle, root / night, root / "table", corpus={"keep": list(row)}), night))


def test_a_night_of_nulls_and_narrower_numbers_is_written_in_its_tables_types(
    bundle_directory: Path, tmp_path: Path
) -> None:
    doc = {"at": datetime(2026, 11, 23), "votes": [0.5]}
    told = {"price": pa.array([1.5]), "tags.all": pa.array([["x"]]), "doc": pa.array([doc])}
    score_night(bundle_directory, tmp_path, "2026-11-23", told)
    narrow = pa.struct([("at", pa.null()), ("votes", pa.list_(pa.int8()))])
    less = {
        "price": pa.array([2], pa.int32()),
        "tags.all": pa.nulls(1),
        "doc": pa.array([{"at": None, "votes": [3]}], narrow),
    }
    score_night(bundle_directory, tmp_path, "2026-11-24", less)
    table = DeltaTable(tmp_path / "table")
    rows = table.to_pyarrow_table(columns=["run_date", "price", "tags_all", "doc"]).sort_by("run_date").to_pylist()
    assert [tuple(row.values())[1:] for row in rows] == [
        (1.5, ["x"], doc),
        (2.0, None, {"at": None, "votes": [3.0]}),
    ]
    first, second = (pq.read_schema(uri) for uri in table.file_uris())
    assert first.equals(second)


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        (pa.array([1.5]), pa.array([2]), "price is double there and int64 here"),
        (pa.nulls(1), pa.array([2]), "price is string there and int64 here"),
    ],
)
def test_a_night_whose_types_the_table_may_not_hold_is_refused(
    first: pa.Array, second: pa.Array, changed: str, bundle_directory: Path, tmp_path: Path
) -> None:
    score_night(bundle_directory, tmp_path, "2026-11-23", {"price": first})
    with pytest.raises(OutputTakenError, match=changed):
        score_night(bundle_directory, tmp_path, "2026-11-24", {"price": second})


def test_the_manifest_is_the_report(bundle_directory: Path, corpus: Path) -> None:
    report = finish(open_run(bundle_directory, corpus), "run-9")
    manifest = corpus.parent / "table" / "_manifests" / f"run_date={NIGHT}" / "run-9.json"
    content = json.loads(manifest.read_text())
    others = {name: content.pop(name) for name in ("spec", "bertmill_version", "models")}
    assert others["models"] == {}
    assert content == json.loads(json.dumps(asdict(report)))
    assert others["spec"]["bundle"] == {"": str(bundle_directory)}
    files = pq.read_table(manifest.with_name("run-9.files.parquet"), partitioning=None)
    assert files["uri"].to_pylist() == sorted(str(path) for path in corpus.rglob("*.parquet"))
    assert all(files["etag"].to_pylist())


def test_a_published_night_has_nothing_left_to_do(bundle_directory: Path, corpus: Path) -> None:
    report = finish(open_run(bundle_directory, corpus))
    again = open_run(bundle_directory, corpus)
    assert (again.is_published, again.plan.pending) == (True, ())
    repeated = finish(again, "run-2")
    assert (repeated.published, repeated.table_version) == (False, report.table_version)
    assert repeated.num_rows_this_run == 0


def test_only_new_and_changed_files_are_scored_again(bundle_directory: Path, corpus: Path) -> None:
    finish(open_run(bundle_directory, corpus))
    write_corpus(corpus, num_files=1, rows_per_file=16, seed=5)
    run = open_run(bundle_directory, corpus)
    assert run.plan.num_pending_rows == 16
    assert finish(run, "run-2").num_rows_this_run == 16
    assert published_ids(corpus) == sorted(pq.read_table(corpus)["id"].to_pylist())


def test_a_changed_model_scores_everything_again_and_never_mixes(corpus: Path) -> None:
    bundle = corpus.parent / "bundle"
    make_bundle(bundle)
    finish(open_run(bundle, corpus))
    info = make_bundle(bundle, seed=1)
    run = open_run(bundle, corpus)
    assert run.plan.num_pending_rows == 60
    finish(run, "run-2")
    versions = DeltaTable(corpus.parent / "table").to_pyarrow_table()["model_version"].to_pylist()
    assert set(versions) == {info.model_version}
    assert len(versions) == 60


def test_an_interrupted_night_goes_on_where_it_stopped(bundle_directory: Path, corpus: Path) -> None:
    first = open_run(bundle_directory, corpus)
    plan = replace(first.plan, shards=first.plan.shards[:2])
    score_all(replace(first, plan=plan))
    second = open_run(bundle_directory, corpus)
    assert len(second.plan.done) == 2
    report = finish(second, "run-2")
    assert (report.num_shards_done_before, report.num_rows_this_run) == (2, 30)
    assert len(published_ids(corpus)) == 60


def test_shards_scored_before_a_kept_column_widened_are_scored_again(bundle_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()

    def put(name: str, stars: pa.Array) -> PreparedRun:
        pq.write_table(make_rows(len(stars)).append_column("stars", stars), tmp_path / "corpus" / name)
        block = {"keep": ["id", "stars"], "shard_rows": 20}
        return prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table", corpus=block)

    (early,) = score_all(put("a.parquet", pa.array([1] * 20)))
    run = put("b.parquet", pa.array([1.5] * 20))
    assert run.plan.stale == (early.shard,)
    run.ledger.drop(run.plan.stale)
    finish(run, "run-2")
    table = DeltaTable(tmp_path / "table")
    assert {pq.read_schema(uri).field("stars").type for uri in table.file_uris()} == {pa.float64()}


def test_a_record_whose_file_is_gone_is_scored_again(bundle_directory: Path, corpus: Path) -> None:
    first = open_run(bundle_directory, corpus)
    lost = score_all(first)[0]
    assert lost.path is not None
    (corpus.parent / "table" / lost.path).unlink()
    second = open_run(bundle_directory, corpus)
    assert second.plan.stale == (lost.shard,)
    second.ledger.drop(second.plan.stale)
    finish(second, "run-2")
    assert len(published_ids(corpus)) == 60


@pytest.mark.parametrize("off_by", [-1, 1])
def test_rows_that_do_not_add_up_are_not_published(bundle_directory: Path, corpus: Path, off_by: int) -> None:
    run = open_run(bundle_directory, corpus)
    records = score_all(run)
    wrong = replace(records[0], num_scored_rows=records[0].num_scored_rows + off_by)
    with pytest.raises(AccountingError, match=f"15 rows in, {15 + off_by} rows accounted for; not published"):
        publish_run(run, [wrong, *records[1:]], "run-1", 0)
    assert "_delta_log" not in {path.split("/")[0] for path in files_below(corpus.parent / "table")}


def test_a_shard_without_a_record_is_not_published(bundle_directory: Path, corpus: Path) -> None:
    run = open_run(bundle_directory, corpus)
    with pytest.raises(AccountingError, match="15 rows in, no record; not published"):
        publish_run(run, score_all(run)[1:], "run-1", 0)


def test_a_file_that_vanished_before_the_commit_is_not_published(bundle_directory: Path, corpus: Path) -> None:
    run = open_run(bundle_directory, corpus)
    records: list[DoneRecord] = score_all(run)
    (corpus.parent / "table" / str(records[0].path)).unlink()
    with pytest.raises(AccountingError, match="the files of 1 finished shards are gone"):
        publish_run(run, records, "run-1", 0)


def spoil(corpus: Path, num_bad: int) -> None:
    texts = pa.array([None] * num_bad + ["good"] * (60 - num_bad), pa.string())
    for path in corpus.iterdir():
        path.unlink()
    pq.write_table(pa.table({"id": [str(row) for row in range(60)], "text": texts}), corpus / "a.parquet")


def test_too_many_bad_rows_publish_nothing_and_say_why(bundle_directory: Path, corpus: Path) -> None:
    spoil(corpus, num_bad=7)
    run = open_run(bundle_directory, corpus, shard_rows=60, max_bad_fraction=0.1)
    with pytest.raises(TooManyBadRowsError, match=r"7 of 60 rows cannot be scored.*text is null: 7") as caught:
        finish(run)
    bad = pq.read_table(caught.value.message.rpartition("7 of them: ")[2])
    assert bad["source_row"].to_pylist() == list(range(7))
    assert "_delta_log" not in {path.split("/")[0] for path in files_below(corpus.parent / "table")}


@pytest.mark.parametrize("num_bad", [6, 0])
def test_few_bad_rows_go_to_a_table_of_their_own_which_is_there_without_any(
    bundle_directory: Path, corpus: Path, num_bad: int
) -> None:
    spoil(corpus, num_bad)
    report = finish(open_run(bundle_directory, corpus, shard_rows=60, max_bad_fraction=0.1))
    bad = DeltaTable(corpus.parent / "table" / "_quarantine").to_pyarrow_table()
    assert bad["source_row"].to_pylist() == list(range(num_bad))
    assert bad["reason"].to_pylist() == ["text is null"] * num_bad
    assert (report.num_scored_rows, report.num_quarantined_rows) == (60 - num_bad, num_bad)


def test_a_corpus_without_rows_is_an_error(bundle_directory: Path, corpus: Path) -> None:
    for path in corpus.iterdir():
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(
        CorpusError, match=r"corpus: no rows in 4 files; expected at least one row\n  -> write rows to these"
    ):
        open_run(bundle_directory, corpus)


def test_other_columns_need_another_table(bundle_directory: Path, corpus: Path) -> None:
    finish(open_run(bundle_directory, corpus))
    with pytest.raises(OutputTakenError, match="only there: id"):
        open_run(bundle_directory, corpus, keep=[])


def test_run_ids_name_their_night_and_differ() -> None:
    ids = {run_id_for(NIGHT) for _ in range(20)}
    assert len(ids) == 20
    assert all(name.startswith(f"{NIGHT}-") for name in ids)
