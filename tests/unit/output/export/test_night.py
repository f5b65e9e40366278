from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import AccountingError, CommitConflictError, CorpusError, OutputTakenError, SpecError
from pipeline.output.compact import compact_night
from pipeline.output.export import night as night_module
from pipeline.output.export import parts as parts_module
from pipeline.output.export.request import parse_request
from pipeline.storage import Storage
from tests.unit.output.export.exporting import (
    export,
    make_night,
    named_files,
    read_csv_export,
    read_delta,
    read_export,
    standing_files,
)
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, STORAGE


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A night of four files with three rows each."""
    make_night(tmp_path / "scores")
    return tmp_path / "scores"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "plain"


def test_the_manifest_leads_to_exactly_the_night_s_rows(table: Path, target: Path) -> None:
    done = export(table, target)
    assert (done.switched, done.num_rows, len(done.parts)) == (True, 12, 4)
    assert read_export(target) == read_delta(table)
    assert named_files(target) == standing_files(target)
    assert [Path(uri).stat().st_size for uri in named_files(target)] == [part.size_bytes for part in done.parts]
    assert f"run_date={NIGHT}/{done.content_id}/part-00000-" in named_files(target)[0]


def test_small_files_are_joined_and_rows_keep_their_order(table: Path, target: Path) -> None:
    done = export(table, target, part_bytes=2**20)
    assert [part.num_rows for part in done.parts] == [12]
    (path,) = named_files(target)
    assert pq.read_table(path, partitioning=None).to_pylist() == [
        {name: value for name, value in row.items() if name != "run_date"} for row in read_delta(table)
    ]


def test_columns_are_those_asked_for_in_that_order(table: Path, target: Path) -> None:
    export(table, target, columns=("label", "id"))
    assert pq.read_schema(named_files(target)[0]).names == ["label", "id"]


def test_csv_holds_the_same_rows(table: Path, target: Path) -> None:
    export(table, target, format="csv")
    found, expected = read_csv_export(target), read_delta(table)
    assert len(found) == 12
    for name in ("id", "label", "embedding", "class_scores"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    assert [(int(row["source_row"]), float(row["score"])) for row in found] == [
        (row["source_row"], row["score"]) for row in expected
    ]


def test_a_second_export_writes_nothing(table: Path, target: Path) -> None:
    first = export(table, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    again = export(table, target)
    assert (again.switched, again.parts, again.content_id) == (False, first.parts, first.content_id)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()} == before


def test_nights_stand_side_by_side(table: Path, target: Path) -> None:
    make_night(table, 2, NEXT_NIGHT)
    export(table, target)
    export(table, target, NEXT_NIGHT)
    assert read_export(target) == read_delta(table)
    assert read_export(target, NEXT_NIGHT) == read_delta(table, NEXT_NIGHT)


def test_a_rescored_night_gets_a_folder_of_its_own_and_the_old_files_stay_for_a_while(
    table: Path, target: Path
) -> None:
    old = export(table, target)
    old_files, old_rows = named_files(target), read_export(target)
    make_night(table, run_id="r2", label="new")
    new = export(table, target)
    assert new.switched
    assert new.content_id != old.content_id
    assert read_export(target) == read_delta(table) != old_rows
    assert set(old_files) < set(standing_files(target)), "a query that began on the old files may end on them"


def test_a_compacted_night_is_the_same_rows(table: Path, target: Path) -> None:
    export(table, target)
    before = read_export(target)
    compact_night(str(table), NIGHT, 2**30, STORAGE)
    assert export(table, target).switched
    assert read_export(target) == before


@pytest.mark.parametrize("failing", [0, 2, 3])
def test_an_export_that_fails_leaves_the_old_one_and_the_next_goes_on(
    table: Path, target: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(table, target)
    old = named_files(target)
    make_night(table, run_id="r2", label="new")
    real, written = parts_module.write_row_groups, []

    def write(tables: Any, schema: Any, uri: str, storage: Storage) -> Any:
        if f"part-{failing:05d}" in uri:
            raise OSError("the disk went")
        written.append(uri)
        return real(tables, schema, uri, storage)

    monkeypatch.setattr(parts_module, "_WRITERS", 1)
    monkeypatch.setattr(parts_module, "write_row_groups", write)
    with pytest.raises(OSError, match="the disk went"):
        export(table, target)
    assert named_files(target) == old
    kept = list(written)

    monkeypatch.setattr(parts_module, "write_row_groups", real)
    export(table, target)
    assert set(kept) <= set(named_files(target)), "finished parts are not written again"
    assert read_export(target) == read_delta(table)


def test_an_export_that_fails_before_the_switch_leaves_the_old_one(
    table: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(table, target)
    old = named_files(target)
    make_night(table, run_id="r2", label="new")

    def refuse(self: Storage, uri: str, content: bytes) -> None:
        raise OSError("the store went")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write_bytes", refuse)
        with pytest.raises(OSError, match="the store went"):
            export(table, target)
    assert named_files(target) == old
    assert export(table, target).switched
    assert read_export(target) == read_delta(table)


def test_of_two_exports_at_once_neither_touches_the_others_files(
    table: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one runs whole between the first one's file and its receipt, at each part."""
    real, inner = parts_module.PartWriter._claim, []

    def claim(self: Any, index: int, part: Any) -> Any:
        if not inner:
            inner.append(True)
            inner[0] = export(table, target)
        return real(self, index, part)

    monkeypatch.setattr(parts_module.PartWriter, "_claim", claim)
    outer = export(table, target)
    assert outer.parts == inner[0].parts
    assert (outer.switched, inner[0].switched) == (False, True)
    assert standing_files(target) == named_files(target), "the loser's file is gone"
    assert read_export(target) == read_delta(table)


def test_a_receipt_whose_file_is_gone_does_not_count(table: Path, target: Path) -> None:
    export(table, target)
    Path(named_files(target)[1]).unlink()
    done = export(table, target)
    assert done.switched
    assert read_export(target) == read_delta(table)


def test_a_night_that_changes_meanwhile_is_not_shown(
    table: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parts_module.PartWriter.write_all

    def write_all(self: Any) -> Any:
        done = real(self)
        make_night(table, run_id="r2", label="new")
        return done

    monkeypatch.setattr(night_module.PartWriter, "write_all", write_all)
    with pytest.raises(CommitConflictError, match="was published anew while it was exported"):
        export(table, target)
    assert named_files(target) == []


def test_a_file_that_holds_other_rows_than_the_log_says_is_not_shown(table: Path, target: Path) -> None:
    path = sorted((table / f"run_date={NIGHT}").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
    with pytest.raises(AccountingError, match="2 rows read where the log says 3"):
        export(table, target)
    assert named_files(target) == []
    assert not [path for path in standing_files(target) if "part-00000" in path]


def test_a_place_is_for_one_table_one_format_and_one_choice_of_columns(
    table: Path, target: Path, tmp_path: Path
) -> None:
    export(table, target)
    with pytest.raises(OutputTakenError, match="as parquet, columns all; another format is asked for"):
        export(table, target, format="csv")
    with pytest.raises(OutputTakenError, match="another columns is asked for"):
        export(table, target, columns=("id",))
    make_night(tmp_path / "other")
    with pytest.raises(OutputTakenError, match="another table_id is asked for"):
        export(tmp_path / "other", target)
    assert read_export(target) == read_delta(table)


def test_a_place_with_something_else_in_it_is_refused(table: Path, target: Path) -> None:
    target.mkdir()
    (target / "mine.txt").write_text("do not touch")
    with pytest.raises(OutputTakenError, match=r"not an export \(first: .*mine.txt\)"):
        export(table, target)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_what_is_asked_for_must_be_there(table: Path, target: Path) -> None:
    with pytest.raises(CorpusError, match="no night 2026-11-30"):
        export(table, target, "2026-11-30")
    with pytest.raises(SpecError, match="--columns: nothing not there; expected some of source_file, source_row, id"):
        export(table, target, columns=("id", "nothing"))
    with pytest.raises(SpecError, match="--columns: a column twice"):
        export(table, target, columns=("id", "id"))
    assert not target.exists()


@pytest.mark.parametrize("inside", ["", "/run_date=2026-11-23", "/.."])
def test_an_export_may_not_lie_inside_its_table(table: Path, inside: str) -> None:
    with pytest.raises(SpecError, match=r"--to: .*; expected a place outside the table"):
        parse_request(str(table), NIGHT, f"{table}{inside}")


def test_a_format_that_there_is_none_of_is_refused(table: Path, target: Path) -> None:
    with pytest.raises(SpecError, match="--format: 'xlsx'; expected parquet or csv"):
        parse_request(str(table), NIGHT, str(target), "xlsx")
