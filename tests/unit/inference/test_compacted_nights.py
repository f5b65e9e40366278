"""What a second run of a compacted night does: nothing, or only what changed; with its parts there and without."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.errors import AccountingError
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.publish import RunReport, publish_run
from pipeline.output.compact import compact_night
from pipeline.output.compacted import read_compacted
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from tests.tiny import make_rows, write_corpus
from tests.unit.inference.scoring import NIGHT, prepared, score_all

STORAGE = Storage()
NOW = VacuumOptions(retention_s=0, safety_s=0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", num_files=4, rows_per_file=15)
    return tmp_path / "corpus"


@pytest.fixture
def table(corpus: Path, bundle_directory: Path) -> Path:
    """A compacted night of four shards of 15 rows, all in one file."""
    finish(open_run(bundle_directory, corpus))
    compact_night(str(corpus.parent / "table"), NIGHT, 1_000_000, STORAGE)
    assert len(live(corpus.parent / "table")) == 1
    return corpus.parent / "table"


def open_run(bundle: Path, corpus: Path) -> PreparedRun:
    return prepared(bundle, corpus, corpus.parent / "table", corpus={"shard_rows": 15, "keep": ["id"]})


def finish(run: PreparedRun) -> RunReport:
    run.ledger.drop(run.plan.stale)  # as score_pending does
    return publish_run(run, score_all(run), "run-1", time.monotonic())


def live(table: Path) -> list[str]:
    return list(DeltaTable(table).file_uris())


def rows_of(table: Path) -> list[dict[str, Any]]:
    return list(DeltaTable(table).to_pyarrow_table().sort_by("id").to_pylist())


def without_parts(table: Path) -> None:
    """Let a vacuum, and one later, remove the parts."""
    for _ in range(3):
        for path in table.rglob("*"):
            if path.is_file() and "_delta_log" not in path.parts:
                os.utime(path, (1, 1))
        vacuum_table(str(table), NOW, STORAGE)
    (note,) = read_compacted(str(table), NIGHT, STORAGE)
    assert not [path for path in note.parts if (table / path).exists()]


def replace_file(corpus: Path) -> None:
    pq.write_table(make_rows(10, seed=77), corpus / "part-2.parquet")


@pytest.mark.parametrize("are_gone", [False, True], ids=["with parts", "without parts"])
def test_a_second_run_finds_it_done_and_leaves_it(
    bundle_directory: Path, corpus: Path, table: Path, are_gone: bool
) -> None:
    if are_gone:
        without_parts(table)
    before, rows = live(table), rows_of(table)
    again = open_run(bundle_directory, corpus)
    assert (again.plan.num_pending_rows, again.plan.stale, again.is_published) == (0, (), True)
    report = finish(again)
    assert not report.published
    assert (live(table), rows_of(table)) == (before, rows)
    assert verify_night(str(table), NIGHT, STORAGE).problems == ()


def test_a_file_more_is_scored_alone_and_the_compacted_one_kept(
    bundle_directory: Path, corpus: Path, table: Path
) -> None:
    without_parts(table)
    before = live(table)
    pq.write_table(make_rows(10, seed=77), corpus / "part-9.parquet")
    report = finish(open_run(bundle_directory, corpus))
    assert (report.num_rows_this_run, report.num_scored_rows) == (10, 70)
    assert set(before) < set(live(table))
    assert len(rows_of(table)) == 70


def test_a_changed_file_brings_back_the_parts_of_the_others(bundle_directory: Path, corpus: Path, table: Path) -> None:
    replace_file(corpus)
    report = finish(open_run(bundle_directory, corpus))
    assert report.num_rows_this_run == 10
    assert len(live(table)) == 4
    assert len(rows_of(table)) == 55
    assert verify_night(str(table), NIGHT, STORAGE).problems == ()


def test_a_changed_file_after_the_parts_are_gone_scores_the_others_again(
    bundle_directory: Path, corpus: Path, table: Path
) -> None:
    without_parts(table)
    replace_file(corpus)
    run = open_run(bundle_directory, corpus)
    assert len(run.plan.stale) == 3
    report = finish(run)
    assert report.num_rows_this_run == 55
    assert len(rows_of(table)) == len({row["id"] for row in rows_of(table)}) == 55
    assert verify_night(str(table), NIGHT, STORAGE).problems == ()


def test_a_run_that_counted_on_parts_retired_meanwhile_publishes_nothing(
    bundle_directory: Path, corpus: Path, table: Path
) -> None:
    replace_file(corpus)
    run = open_run(bundle_directory, corpus)
    fresh = score_all(run)
    before = rows_of(table)
    without_parts(table)
    with pytest.raises(AccountingError, match="files of 3 finished shards are gone"):
        publish_run(run, fresh, "run-2", time.monotonic())
    assert rows_of(table) == before


def test_a_night_compacted_between_plan_and_commit_stays_compacted(
    bundle_directory: Path, corpus: Path, tmp_path: Path
) -> None:
    run = open_run(bundle_directory, corpus)
    fresh = score_all(run)
    publish_run(run, fresh, "run-1", time.monotonic())
    pq.write_table(make_rows(10, seed=77), corpus / "part-9.parquet")
    second = open_run(bundle_directory, corpus)
    more = score_all(second)
    compact_night(str(tmp_path / "table"), NIGHT, 1_000_000, STORAGE)
    (merged,) = live(tmp_path / "table")
    publish_run(second, more, "run-2", time.monotonic())
    assert merged in live(tmp_path / "table")
    assert len(rows_of(tmp_path / "table")) == 70
