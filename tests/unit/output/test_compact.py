from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.errors import AccountingError, CommitConflictError, CorpusError
from pipeline.output import compact as compact_module
from pipeline.output.compact import compact_night, plan_groups
from pipeline.output.compacted import read_compacted
from pipeline.output.history import list_live_files, read_nights, read_versions
from pipeline.output.table import DataFile, publish_night
from pipeline.output.writer import ROW_GROUP_ROWS, write_parquet
from pipeline.storage import Storage
from tests.unit.output.records import night, write_rows

STORAGE = Storage()
FIRST, SECOND = "2026-11-23", "2026-11-24"
LARGE = 1_000_000


def rows_of(table: Path, run_date: str, version: int | None = None) -> list[dict[str, Any]]:
    rows = DeltaTable(table, version=version).to_pyarrow_table(partitions=[("run_date", "=", run_date)])
    return list(rows.sort_by("id").to_pylist())


def parquet_names(table: Path) -> set[str]:
    return {path.relative_to(table).as_posix() for path in table.rglob("*.parquet") if "_delta_log" not in path.parts}


@pytest.fixture
def files(tmp_path: Path) -> list[DataFile]:
    """Night one in five small files, night two in two."""
    first = [write_rows(tmp_path, FIRST, name, [10 * index, 10 * index + 1]) for index, name in enumerate("abcde")]
    second = [write_rows(tmp_path, SECOND, name, [index]) for index, name in enumerate("xy")]
    publish_night(str(tmp_path), night(FIRST, *first, run_id="r1", fingerprint="f1"), STORAGE)
    publish_night(str(tmp_path), night(SECOND, *second, run_id="r2", fingerprint="f2"), STORAGE)
    return first


def test_a_night_is_rewritten_in_one_commit_and_no_row_changes(tmp_path: Path, files: list[DataFile]) -> None:
    before, other = rows_of(tmp_path, FIRST), rows_of(tmp_path, SECOND)
    version = DeltaTable(tmp_path).version()
    done = compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert (done.num_files_before, done.num_files_after, done.num_merged_files) == (5, 1, 5)
    assert done.version == DeltaTable(tmp_path).version() == version + 1
    (file,) = list_live_files(str(tmp_path), STORAGE, FIRST)
    assert (file.num_rows, file.size_bytes) == (10, Path(file.uri).stat().st_size)
    assert (done.size_bytes_before, done.size_bytes_after) == (sum(file.size_bytes for file in files), file.size_bytes)
    assert rows_of(tmp_path, FIRST) == before
    assert rows_of(tmp_path, SECOND) == other
    assert rows_of(tmp_path, FIRST, version) == before, "older versions keep their files"


def test_the_commit_keeps_what_is_known_of_the_night(tmp_path: Path, files: list[DataFile]) -> None:
    compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    newest = read_versions(str(tmp_path), STORAGE)[0]
    assert (newest.run_date, newest.model_version, newest.run_id[:8]) == (FIRST, "m1", "compact-")
    assert (newest.num_added_rows, newest.num_removed_rows) == (10, 10)
    entry = DeltaTable(tmp_path).history(1)[0]
    assert entry["bertmill.fingerprint"] == "f1"
    assert read_nights(str(tmp_path), STORAGE)[0].model_versions == ("m1",)
    log = sorted((tmp_path / "_delta_log").glob("*.json"))[-1].read_text()
    assert log.count('"dataChange":false') == 6, "followers of the table need not read these rows again"


def test_a_night_that_is_compact_stays_as_it_is(tmp_path: Path, files: list[DataFile]) -> None:
    first = compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    names = parquet_names(tmp_path)
    again = compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert (again.num_merged_files, again.version) == (0, first.version)
    assert parquet_names(tmp_path) == names


def test_the_note_names_the_parts_through_several_compactions(tmp_path: Path, files: list[DataFile]) -> None:
    parts = {file.path: file.size_bytes for file in files}
    compact_night(str(tmp_path), FIRST, 2 * max(parts.values()), STORAGE)
    assert len(list_live_files(str(tmp_path), STORAGE, FIRST)) == 3
    compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    (file,) = list_live_files(str(tmp_path), STORAGE, FIRST)
    notes = {note.path: note for note in read_compacted(str(tmp_path), FIRST, STORAGE)}
    assert len(notes) == 3
    last = notes[file.uri.removeprefix(f"{tmp_path}/")]
    assert (last.parts, last.size_bytes, last.are_retired) == (parts, file.size_bytes, False)


def test_groups_fill_up_to_the_target_and_single_files_are_left() -> None:
    files = [DataFile(str(size), size, 1) for size in (90, 60, 35, 30, 5, 120)]
    groups = plan_groups(files, 100)
    assert sorted(sorted(file.size_bytes for file in group) for group in groups) == [[5, 90], [35, 60]]
    assert plan_groups(files, 4) == []
    assert plan_groups([], 100) == []


def test_rows_keep_their_footer_and_row_groups_their_size(tmp_path: Path) -> None:
    files = []
    for name, num_rows in (("a", 20_000), ("b", 30_000)):
        rows = pa.table({"id": range(num_rows), "label": ["x"] * num_rows, "embedding": [[0.5]] * num_rows})
        rows = rows.cast(pa.schema([("id", "int64"), ("label", "string"), ("embedding", pa.list_(pa.float32()))]))
        path = f"run_date={FIRST}/{name}.parquet"
        footer = {"bertmill.fingerprint": "f", "bertmill.run_id": f"run-{name}"}
        written = write_parquet(rows, f"{tmp_path}/{path}", footer, STORAGE)
        files.append(DataFile(path, written.size_bytes, num_rows))
    publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    compact_night(str(tmp_path), FIRST, LARGE * 100, STORAGE)
    (file,) = list_live_files(str(tmp_path), STORAGE, FIRST)
    metadata = pq.read_metadata(file.uri)
    assert metadata.metadata[b"bertmill.fingerprint"] == b"f"
    assert metadata.metadata[b"bertmill.run_id"] == b"run-a,run-b"
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, 50_000 - ROW_GROUP_ROWS]
    assert metadata.row_group(0).column(2).compression == "ZSTD"


@pytest.mark.parametrize("spoil", ["missing", "corrupt", "other rows", "other columns"])
def test_a_file_that_is_not_what_the_log_says_stops_it_and_nothing_is_left(
    tmp_path: Path, files: list[DataFile], spoil: str
) -> None:
    path = tmp_path / files[-1].path
    if spoil == "missing":
        path.unlink()
    elif spoil == "corrupt":
        path.write_bytes(b"PAR1 junk PAR1")
    elif spoil == "other rows":
        write_rows(tmp_path, FIRST, "e", [1, 2, 3])
    else:
        pq.write_table(pa.table({"id": [1, 2]}), path)
    names, version = parquet_names(tmp_path), DeltaTable(tmp_path).version()
    with pytest.raises(AccountingError, match=r"e\.parquet|7 rows read|11 rows read|5 rows read"):
        compact_night(str(tmp_path), FIRST, 1 + sum(file.size_bytes for file in files[:3]), STORAGE)
    assert parquet_names(tmp_path) == names
    assert read_compacted(str(tmp_path), FIRST, STORAGE) == []
    assert DeltaTable(tmp_path).version() == version


def publish_before_commit(monkeypatch: pytest.MonkeyPatch, publish: Any) -> list[int]:
    """Let someone else publish just before the compaction's first commit; counts its commits."""
    real, commits = compact_module.commit_actions, []

    def commit(table: Any, actions: Any, of: Any) -> None:
        commits.append(1)
        if len(commits) == 1:
            publish()
        real(table, actions, of)

    monkeypatch.setattr(compact_module, "commit_actions", commit)
    return commits


def test_a_night_published_anew_meanwhile_wins(
    tmp_path: Path, files: list[DataFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = write_rows(tmp_path, FIRST, "new", [7])
    names = parquet_names(tmp_path)
    publish_before_commit(monkeypatch, lambda: publish_night(str(tmp_path), night(FIRST, new), STORAGE))
    with pytest.raises(CommitConflictError, match="was published anew while it was compacted"):
        compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert [row["id"] for row in rows_of(tmp_path, FIRST)] == [7]
    assert parquet_names(tmp_path) == names
    assert read_compacted(str(tmp_path), FIRST, STORAGE) == []


def test_files_added_to_the_night_meanwhile_are_kept(
    tmp_path: Path, files: list[DataFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = write_rows(tmp_path, FIRST, "new", [7])
    commits = publish_before_commit(
        monkeypatch, lambda: publish_night(str(tmp_path), night(FIRST, *files, new), STORAGE)
    )
    compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert len(commits) == 2
    assert len(list_live_files(str(tmp_path), STORAGE, FIRST)) == 2
    assert [row["id"] for row in rows_of(tmp_path, FIRST)] == [0, 1, 7, 10, 11, 20, 21, 30, 31, 40, 41]


def test_a_commit_whose_answer_was_lost_is_found_in_the_table(
    tmp_path: Path, files: list[DataFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compact_module.commit_actions

    def commit(table: Any, actions: Any, of: Any) -> None:
        real(table, actions, of)
        raise compact_module.DeltaError("connection reset by peer")

    monkeypatch.setattr(compact_module, "commit_actions", commit)
    before = rows_of(tmp_path, FIRST)
    done = compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert (done.num_files_after, done.version) == (1, DeltaTable(tmp_path).version())
    assert rows_of(tmp_path, FIRST) == before


def test_while_it_is_unknown_whether_a_commit_landed_no_file_is_deleted(
    tmp_path: Path, files: list[DataFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(table: Any, actions: Any, of: Any) -> None:
        raise compact_module.DeltaError("connection reset by peer")

    monkeypatch.setattr(compact_module, "commit_actions", commit)
    with pytest.raises(CommitConflictError, match="could not be committed in 3 attempts"):
        compact_night(str(tmp_path), FIRST, LARGE, STORAGE)
    assert len(parquet_names(tmp_path)) == 5 + 2 + 1


def test_a_night_or_table_that_is_not_there_is_named(tmp_path: Path, files: list[DataFile]) -> None:
    with pytest.raises(CorpusError, match="no night 2026-11-25"):
        compact_night(str(tmp_path), "2026-11-25", LARGE, STORAGE)
    with pytest.raises(CorpusError, match="elsewhere: no Delta table there"):
        compact_night(str(tmp_path / "elsewhere"), FIRST, LARGE, STORAGE)
