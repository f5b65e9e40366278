from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.errors import AccountingError, CorpusError
from pipeline.output import vacuum as vacuum_module
from pipeline.output.compact import compact_night
from pipeline.output.compacted import read_compacted
from pipeline.output.ledger import Ledger
from pipeline.output.table import DataFile, night_of, publish_night
from pipeline.output.vacuum import VacuumReport, vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.storage import Storage
from tests.unit.output.records import done_record, night, write_rows

STORAGE = Storage()
FIRST, SECOND = "2026-11-23", "2026-11-24"
HOUR_S, DAY_S = 3_600, 86_400
WEEK = VacuumOptions(retention_s=7 * DAY_S, safety_s=DAY_S)
NO_RETENTION = replace(WEEK, retention_s=0)
OLD, NEW = "0" * 32, "1" * 32


def age(place: Path, days: float) -> None:
    """Make everything below a place look so many days older, the commits' own clocks too."""
    for path in [place, *place.rglob("*")]:
        if path.is_file():
            moment = path.stat().st_mtime - days * DAY_S
            if path.parent.name == "_delta_log" and path.suffix == ".json":
                path.write_text(_earlier(path.read_text(), days))
            os.utime(path, (moment, moment))


def _earlier(commit: str, days: float) -> str:
    for key in ('"timestamp":', '"deletionTimestamp":'):
        head, *parts = commit.split(key)
        commit = head + "".join(f"{key}{int(part[:13]) - int(days * DAY_S * 1000)}{part[13:]}" for part in parts)
    return commit


def names(table: Path) -> set[str]:
    return {path.stem for path in table.rglob("*.parquet") if "_delta_log" not in path.parts}


def removed(report: VacuumReport) -> set[str]:
    return {Path(path).stem for path, _, _ in report.removed}


def record(file: DataFile, fingerprint: str, table: Path, bad: DataFile | None = None) -> None:
    """Claim the done-record of a file, and perhaps of a quarantine file."""
    claimed = done_record(Path(file.path).stem, path=file.path, quarantine_path=bad and bad.path)
    Ledger(str(table), night_of(file.path), fingerprint, STORAGE).claim(claimed)


def ledger_names(table: Path, fingerprint: str) -> set[str]:
    return Ledger(str(table), FIRST, fingerprint, STORAGE).names()


def vacuum(table: Path, options: VacuumOptions = WEEK) -> VacuumReport:
    return vacuum_table(f"{table}/", options, STORAGE)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A night that shows files a and b of fingerprint NEW, published a month ago."""
    files = [write_rows(tmp_path, FIRST, name, [1]) for name in "ab"]
    for file in files:
        record(file, NEW, tmp_path)
    publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    age(tmp_path, 30)
    return tmp_path


def republish(table: Path, *shown: str) -> None:
    """Make the night show exactly these files."""
    paths = {name: f"run_date={FIRST}/{name}.parquet" for name in shown}
    files = [DataFile(path, (table / path).stat().st_size, 1) for path in paths.values()]
    publish_night(str(table), night(FIRST, *files), STORAGE)


def test_a_table_in_order_loses_nothing(table: Path) -> None:
    report = vacuum(table, NO_RETENTION)
    assert (report.removed, report.num_forgotten_records) == ((), 0)
    assert report.kept == {"live": 2}
    assert names(table) == {"a", "b"}


def test_what_no_version_and_no_record_names_goes_once_it_is_old(table: Path) -> None:
    write_rows(table, FIRST, "lost", [1])
    write_rows(table / "_quarantine", FIRST, "lost-bad", [1])
    (table / f"run_date={FIRST}" / f".{'a' * 32}.tmp").write_text("half a file")
    assert removed(vacuum(table)) == set(), "an attempt in flight may still record them"
    age(table, 0.9)
    assert removed(vacuum(table)) == set()
    age(table, 0.2)
    report = vacuum(table)
    assert removed(report) == {"lost", "lost-bad", f".{'a' * 32}"}
    assert report.removed_bytes > 1_000
    assert names(table) == {"a", "b"}
    assert not list(table.rglob("*.tmp"))


def test_a_dry_run_tells_and_deletes_nothing(table: Path) -> None:
    write_rows(table, FIRST, "lost", [1])
    age(table, 2)
    assert removed(vacuum(table, replace(WEEK, is_dry_run=True))) == {"lost"}
    assert names(table) == {"a", "b", "lost"}


def test_what_an_unfinished_run_has_recorded_is_spared_however_old(table: Path) -> None:
    record(write_rows(table, FIRST, "c", [1]), NEW, table)
    record(write_rows(table, SECOND, "unpublished", [1]), NEW, table)
    age(table, 300)
    report = vacuum(table, NO_RETENTION)
    assert removed(report) == set()
    assert report.kept == {"live": 2, "named by done-records: a run may still publish them": 2}
    republish(table, "a", "b", "c")
    assert DeltaTable(table).to_pyarrow_table().num_rows == 3


def test_files_of_older_versions_stay_for_the_retention_and_what_records_name_beyond_it(table: Path) -> None:
    write_rows(table, FIRST, "c", [1])
    age(table, 30)
    republish(table, "a", "b", "c")
    republish(table, "a")
    age(table, 6.9)
    report = vacuum(table)
    assert removed(report) == set()
    assert report.kept["named by a version within the retention"] == 2
    assert DeltaTable(table, version=1).to_pyarrow_table().num_rows == 2
    age(table, 0.2)
    assert removed(vacuum(table)) == {"c"}, "b has a record under the fingerprint that is shown"
    assert names(table) == {"a", "b"}


def older_fingerprint(table: Path) -> None:
    """Files that the night showed two months ago, under another fingerprint."""
    scored, bad = write_rows(table, FIRST, "x", [1]), write_rows(table / "_quarantine", FIRST, "x-bad", [2])
    record(scored, OLD, table, bad)
    age(table, 30)


def test_another_fingerprints_files_go_in_two_steps_with_their_records(table: Path) -> None:
    older_fingerprint(table)
    first = vacuum(table)
    assert (removed(first), first.num_forgotten_records) == (set(), 1)
    assert ledger_names(table, OLD) == set()
    assert names(table) == {"a", "b", "x", "x-bad"}
    assert removed(vacuum(table)) == set(), "a run that has read the records may be about to publish"
    age(table, 1.1)
    assert removed(vacuum(table)) == {"x", "x-bad"}
    assert ledger_names(table, NEW) == {"a", "b"}
    assert not list((table / "_bertmill" / "forgotten").rglob("*.json"))
    assert vacuum(table).removed == ()


def test_a_dry_run_forgets_no_records(table: Path) -> None:
    older_fingerprint(table)
    assert vacuum(table, replace(WEEK, is_dry_run=True)).num_forgotten_records == 1
    assert ledger_names(table, OLD) == {"x"}


def test_forgotten_files_that_were_published_after_all_stay(table: Path) -> None:
    older_fingerprint(table)
    vacuum(table)
    republish(table, "x")
    age(table, 3)
    assert "x" not in removed(vacuum(table))
    assert [row["label"] for row in DeltaTable(table).to_pyarrow_table().to_pylist()] == ["x"]


def test_forgotten_files_stay_while_their_fingerprint_is_at_work_again(table: Path) -> None:
    older_fingerprint(table)
    vacuum(table)
    age(table, 3)
    record(write_rows(table, FIRST, "y", [1]), OLD, table)
    assert removed(vacuum(table)) == set()


def test_another_fingerprint_at_work_within_the_retention_is_spared(table: Path) -> None:
    older_fingerprint(table)
    record(write_rows(table, FIRST, "y", [1]), OLD, table)
    age(table, 6)
    report = vacuum(table)
    assert (removed(report), report.num_forgotten_records) == (set(), 0)
    assert ledger_names(table, OLD) == {"x", "y"}


def test_forgetting_the_same_fingerprint_twice_keeps_all_its_files_for_a_day(table: Path) -> None:
    older_fingerprint(table)
    vacuum(table)
    for path in table.rglob("x*.parquet"):
        path.unlink()
    record(write_rows(table, FIRST, "y", [1]), OLD, table)
    age(table, 30)
    assert vacuum(table).num_forgotten_records == 1
    assert removed(vacuum(table)) == set()
    age(table, 1.1)
    assert removed(vacuum(table)) == {"y"}


def test_parts_of_a_compacted_file_go_in_two_steps_and_their_records_stay(table: Path) -> None:
    compact_night(str(table), FIRST, 1_000_000, STORAGE)
    (merged,) = names(table) - {"a", "b"}
    assert removed(vacuum(table)) == set(), "older versions within the retention need them"
    age(table, 7.1)
    assert removed(vacuum(table)) == set()
    (note,) = read_compacted(str(table), FIRST, STORAGE)
    assert note.are_retired
    assert removed(vacuum(table)) == set(), "a run that counted on them may be about to publish"
    age(table, 1.1)
    report = vacuum(table)
    assert removed(report) == {"a", "b"}
    assert {reason for _, _, reason in report.removed} == {"its rows stand in a compacted file"}
    assert names(table) == {merged}
    assert ledger_names(table, NEW) == {"a", "b"}
    assert DeltaTable(table).to_pyarrow_table().num_rows == 2
    age(table, 30)
    assert vacuum(table).removed == ()
    assert len(read_compacted(str(table), FIRST, STORAGE)) == 1


def test_a_compacted_file_that_is_shown_no_more_goes_with_its_note(table: Path) -> None:
    compact_night(str(table), FIRST, 1_000_000, STORAGE)
    (merged,) = names(table) - {"a", "b"}
    republish(table, "a")
    age(table, 6)
    assert removed(vacuum(table)) == set()
    age(table, 1.1)
    assert removed(vacuum(table)) == {merged}
    assert names(table) == {"a", "b"}
    assert read_compacted(str(table), FIRST, STORAGE) == []


def test_the_fingerprint_behind_a_compacted_night_is_the_one_it_shows(table: Path) -> None:
    compact_night(str(table), FIRST, 1_000_000, STORAGE)
    age(table, 60)
    for _ in range(3):
        assert vacuum(table).num_forgotten_records == 0
        age(table, 2)
    assert ledger_names(table, NEW) == {"a", "b"}


def test_the_note_of_a_compaction_under_way_is_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins after the files were listed, and has not committed when the log is read."""
    real = vacuum_module._read_forgotten

    def begin_compaction(uri: str, storage: Storage) -> object:
        note = vacuum_module.CompactedFile(f"run_date={FIRST}/merged.parquet", 1, {"a": 1})
        vacuum_module.write_compacted(uri, FIRST, note, storage)
        return real(uri, storage)

    monkeypatch.setattr(vacuum_module, "_read_forgotten", begin_compaction)
    vacuum(table)
    assert len(read_compacted(str(table), FIRST, STORAGE)) == 1


@pytest.mark.parametrize("moment", ["_list_files", "_read_ledgers"])
def test_a_run_that_ends_while_the_vacuum_reads_loses_nothing(
    table: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A slow attempt: its file is old, and recorded and published only after the vacuum has begun to read."""
    slow = write_rows(table, FIRST, "slow", [1])
    age(table, 2)
    real = getattr(vacuum_module, moment)

    def read_and_publish(*arguments: object) -> object:
        found = real(*arguments)
        record(slow, NEW, table)
        republish(table, "a", "b", "slow")
        return found

    monkeypatch.setattr(vacuum_module, moment, read_and_publish)
    assert removed(vacuum(table)) == set()
    assert DeltaTable(table).to_pyarrow_table().num_rows == 3


def test_a_removal_just_before_the_retention_does_not_hide_its_record(table: Path) -> None:
    """The log is read a day beyond the retention; a file removed in that day is still looked up in the ledger."""
    republish(table, "a")
    age(table, 7.5)
    assert removed(vacuum(table)) == set()
    assert ledger_names(table, NEW) == {"a", "b"}


def broken(table: Path) -> Iterable[Path]:
    yield table / "_bertmill" / "ledger" / f"run_date={FIRST}" / OLD / "broken.json"
    yield table / "_bertmill" / "compacted" / f"run_date={FIRST}" / "broken.json"
    yield table / "_bertmill" / "forgotten" / f"run_date={FIRST}" / f"{OLD}.json"


@pytest.mark.parametrize("place", range(3))
def test_what_cannot_be_read_stops_it_before_anything_is_deleted(table: Path, place: int) -> None:
    write_rows(table, FIRST, "lost", [1])
    path = list(broken(table))[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    age(table, 30)
    with pytest.raises(AccountingError, match=rf"{path.name}: not a"):
        vacuum(table)
    assert names(table) == {"a", "b", "lost"}


def test_other_files_in_the_tables_folder_are_none_of_its_business(table: Path) -> None:
    for name in ("own.parquet", "notes/own.parquet", "_manifests/own.parquet", f"run_date={FIRST}/README"):
        STORAGE.write_bytes(f"{table}/{name}", b"mine")
    age(table, 300)
    assert vacuum(table, NO_RETENTION).removed == ()


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no Delta table there"):
        vacuum(tmp_path)


def test_a_night_that_was_never_published_goes_where_asked_in_two_steps(table: Path) -> None:
    bad = write_rows(table / "_quarantine", SECOND, "unpublished-bad", [1])
    record(write_rows(table, SECOND, "unpublished", [1]), NEW, table, bad)
    asked = replace(WEEK, unpublished_s=30 * DAY_S)
    for days, forgotten in ((29, 0), (2, 1)):
        age(table, days)
        report = vacuum(table, asked)
        assert (removed(report), report.num_forgotten_records) == (set(), forgotten)
    assert Ledger(str(table), SECOND, NEW, STORAGE).names() == set()
    assert (
        vacuum(table, asked).kept[
            "of a fingerprint the night does not show: records forgotten less than the " + ("safety age ago")
        ]
        == 2
    )
    age(table, 2)
    assert removed(vacuum(table, asked)) == {"unpublished", "unpublished-bad"}
    assert names(table) == {"a", "b"}


def test_a_night_given_up_and_then_published_after_all_keeps_its_files(table: Path) -> None:
    file = write_rows(table, SECOND, "late", [1])
    record(file, NEW, table)
    asked = replace(WEEK, unpublished_s=0)
    assert vacuum(table, asked).num_forgotten_records == 0, "the retention and the safety age hold all the same"
    age(table, 30)
    assert vacuum(table, asked).num_forgotten_records == 1
    publish_night(str(table), night(SECOND, file), STORAGE)
    age(table, 30)
    assert removed(vacuum(table, asked)) == set()
    assert DeltaTable(table).to_pyarrow_table().num_rows == 3
