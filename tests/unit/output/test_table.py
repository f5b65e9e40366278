from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.errors import CommitConflictError, OutputTakenError, StorageDeniedError, TransientStorageError
from pipeline.output import table as table_module
from pipeline.output.table import check_table_target, live_files, open_table, publish_night
from pipeline.schema import RUN_DATE_FIELD
from pipeline.storage import Storage
from tests.unit.output.records import SCHEMA, night, write_rows

STORAGE = Storage()
FIRST, SECOND = "2026-11-23", "2026-11-24"


def rows_of(table: Path, run_date: str | None = None) -> list[tuple[int, str]]:
    rows = DeltaTable(table).to_pyarrow_table(partitions=run_date and [("run_date", "=", run_date)])
    return sorted(zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True))


def stale_first(monkeypatch: pytest.MonkeyPatch, stale: Any) -> list[int]:
    """Make the next publisher begin with a table it opened before another one committed; counts its looks."""
    looks: list[int] = []

    def open_with_delay(uri: str, storage: Storage) -> Any:
        looks.append(1)
        return stale if len(looks) == 1 else open_table(uri, storage)

    monkeypatch.setattr(table_module, "open_table", open_with_delay)
    return looks


def test_a_new_night_makes_the_table(tmp_path: Path) -> None:
    files = [write_rows(tmp_path, FIRST, "a", [1, 2]), write_rows(tmp_path, FIRST, "b", [3])]
    published = publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    assert (published.changed, published.num_added_files, published.num_removed_files) == (True, 2, 0)
    assert published.version == DeltaTable(tmp_path).version()
    assert rows_of(tmp_path) == [(1, "a"), (2, "a"), (3, "b")]


def test_columns_come_back_with_the_partition_and_plain_lists(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [7])), STORAGE)
    rows = DeltaTable(tmp_path).to_pyarrow_table()
    assert str(rows["run_date"][0]) == FIRST
    assert rows["embedding"].to_pylist() == [[0.5, 7.0]]
    assert pa.types.is_list(rows.schema.field("embedding").type)


def test_an_unchanged_night_makes_no_new_version(tmp_path: Path) -> None:
    files = [write_rows(tmp_path, FIRST, "a", [1, 2])]
    first = publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    again = publish_night(str(tmp_path), night(FIRST, *files, run_id="another"), STORAGE)
    assert not again.changed
    assert again.version == first.version == DeltaTable(tmp_path).version()


def test_only_the_file_that_changed_is_swapped(tmp_path: Path) -> None:
    kept, old = write_rows(tmp_path, FIRST, "kept", [1]), write_rows(tmp_path, FIRST, "old", [2])
    publish_night(str(tmp_path), night(FIRST, kept, old), STORAGE)
    new = write_rows(tmp_path, FIRST, "new", [2, 3])
    published = publish_night(str(tmp_path), night(FIRST, kept, new), STORAGE)
    assert (published.num_added_files, published.num_removed_files) == (1, 1)
    assert rows_of(tmp_path) == [(1, "kept"), (2, "new"), (3, "new")]
    before = DeltaTable(tmp_path, version=published.version - 1).to_pyarrow_table()
    assert sorted(before["label"].to_pylist()) == ["kept", "old"]


def test_files_of_vanished_shards_are_removed(tmp_path: Path) -> None:
    a, b = write_rows(tmp_path, FIRST, "a", [1]), write_rows(tmp_path, FIRST, "b", [2])
    publish_night(str(tmp_path), night(FIRST, a, b), STORAGE)
    assert publish_night(str(tmp_path), night(FIRST, b), STORAGE).num_removed_files == 1
    assert rows_of(tmp_path) == [(2, "b")]
    assert publish_night(str(tmp_path), night(FIRST), STORAGE).num_removed_files == 1
    assert rows_of(tmp_path) == []


def test_nights_do_not_touch_each_other(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "a", [1, 2])), STORAGE)
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "b", [9])), STORAGE)
    assert rows_of(tmp_path, FIRST) == [(9, "b")]
    assert rows_of(tmp_path, SECOND) == [(1, "a"), (2, "a")]
    table = open_table(str(tmp_path), STORAGE)
    assert table is not None
    assert live_files(table, SECOND).keys() == {f"run_date={SECOND}/a.parquet"}
    assert len(live_files(table)) == 2


def test_files_nobody_committed_are_not_seen(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    write_rows(tmp_path, FIRST, "half-done", [2, 3])
    assert rows_of(tmp_path) == [(1, "a")]


def test_the_commit_says_what_made_it(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1]), run_id="r1"), STORAGE)
    entry = DeltaTable(tmp_path).history(1)[0]
    assert entry["bertmill.run_id"] == "r1"
    assert entry["bertmill.run_date"] == FIRST


def test_a_publisher_that_lost_to_the_same_content_finds_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    other = write_rows(tmp_path, SECOND, "z", [0])
    files = [write_rows(tmp_path, FIRST, "a", [1, 2])]
    publish_night(str(tmp_path), night(SECOND, other), STORAGE)
    stale = open_table(str(tmp_path), STORAGE)
    winner = publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    looks = stale_first(monkeypatch, stale)
    loser = publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    assert (loser.changed, loser.version, len(looks), len(naps)) == (False, winner.version, 2, 1)
    assert rows_of(tmp_path, FIRST) == [(1, "a"), (2, "a")]


def test_a_publisher_that_lost_to_other_content_ends_with_its_own_night_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "z", [0])), STORAGE)
    stale = open_table(str(tmp_path), STORAGE)
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    stale_first(monkeypatch, stale)
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "b", [2])), STORAGE)
    assert rows_of(tmp_path, FIRST) == [(2, "b")]
    assert len(naps) == 1


def test_of_two_publishers_that_create_the_table_one_comes_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    files = [write_rows(tmp_path, FIRST, "a", [1])]
    publish_night(str(tmp_path), night(FIRST, *files), STORAGE)
    stale_first(monkeypatch, None)
    assert not publish_night(str(tmp_path), night(FIRST, *files), STORAGE).changed
    assert rows_of(tmp_path) == [(1, "a")]
    assert len(naps) == 1


@pytest.mark.usefixtures("naps")
def test_publishers_of_different_nights_both_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    stale = open_table(str(tmp_path), STORAGE)
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "b", [2])), STORAGE)
    stale_first(monkeypatch, stale)
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "c", [3])), STORAGE)
    assert rows_of(tmp_path) == [(2, "b"), (3, "c")]


def test_a_publisher_that_always_loses_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "z", [0])), STORAGE)
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    monkeypatch.setattr(table_module, "open_table", lambda uri, _storage: DeltaTable(uri, version=0))
    with pytest.raises(CommitConflictError, match=f"night {FIRST} could not be committed in 6 attempts"):
        publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "b", [2])), STORAGE)
    assert naps == sorted(naps)
    assert rows_of(tmp_path, FIRST) == [(1, "a")]


@pytest.mark.parametrize(
    ("error", "kind", "num_attempts"),
    [
        (OSError("Generic S3 error\n  error sending request\n  Connection reset by peer"), TransientStorageError, 6),
        (DeltaError("Generic S3 error: Server returned non-2xx status code: 500"), TransientStorageError, 6),
        (OSError("The operation lacked the necessary privileges\n 403 Forbidden"), StorageDeniedError, 1),
        (DeltaError("Invalid JSON in a log entry"), OutputTakenError, 1),
    ],
)
def test_a_store_that_fails_during_the_commit_keeps_its_kind_of_error(
    error: Exception,
    kind: type[Exception],
    num_attempts: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    naps: list[float],
) -> None:
    attempts: list[object] = []

    def fail(*arguments: object) -> None:
        attempts.append(arguments)
        raise error

    monkeypatch.setattr(table_module, "commit_actions", fail)
    with pytest.raises(kind, match=r"(?s)(cannot publish|publish to).*\n  -> "):
        publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    assert len(attempts) == num_attempts
    assert len(naps) == num_attempts - 1


@pytest.mark.parametrize("mark", ["%", "#", "?", "\\"])
def test_a_place_that_delta_would_read_as_another_is_refused(tmp_path: Path, mark: str) -> None:
    with pytest.raises(OutputTakenError, match=f"Delta reads {re.escape(repr(mark))} in a path as") as caught:
        check_table_target(f"{tmp_path}/a{mark}41", SCHEMA, STORAGE)
    assert caught.value.remedy == f"choose an `output.uri` without {mark!r}"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (pa.schema([field for field in SCHEMA if field.name != "label"]), "only there: label"),
        (SCHEMA.set(0, pa.field("id", pa.string())), "id is int64 there and string here"),
        (SCHEMA.set(2, pa.field("embedding", pa.list_(pa.float64()))), "embedding is list.* there and list.* here"),
    ],
)
def test_a_table_with_other_columns_is_refused(tmp_path: Path, schema: pa.Schema, message: str) -> None:
    file = write_rows(tmp_path, FIRST, "a", [1])
    publish_night(str(tmp_path), night(FIRST, file), STORAGE)
    for attempt in (
        lambda: check_table_target(str(tmp_path), schema, STORAGE),
        lambda: publish_night(str(tmp_path), night(SECOND, file, schema=schema), STORAGE),
    ):
        with pytest.raises(OutputTakenError, match=message):
            attempt()
    assert DeltaTable(tmp_path).version() == 1


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.binary(), pa.bool_(), pa.int8(), pa.float64(), pa.date32(), pa.timestamp("us", "UTC")),
        *(pa.decimal128(10, 2), pa.list_(pa.field("element", pa.string())), pa.struct([("a", pa.int64())])),
    ],
)
def test_kept_columns_keep_their_type_from_night_to_night(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("kept", kind), RUN_DATE_FIELD])
    publish_night(str(tmp_path), night(FIRST, schema=schema), STORAGE)
    check_table_target(str(tmp_path), schema, STORAGE)
    assert open_table(str(tmp_path), STORAGE) is not None


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputTakenError, match=r"not a bertmill table \(first: .*thesis\.tex\)"):
        check_table_target(str(tmp_path), SCHEMA, STORAGE)


def unpublished(tmp_path: Path) -> None:
    write_rows(tmp_path, FIRST, "a", [1])
    for name in ("_bertmill/ledger/x.json", "_manifests/run.json"):
        STORAGE.write_bytes(f"{tmp_path}/{name}", b"{}")


@pytest.mark.parametrize("make", [lambda path: None, unpublished], ids=["nothing", "an unfinished run"])
def test_an_empty_place_and_an_unfinished_first_night_are_fine(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_table_target(str(tmp_path), SCHEMA, STORAGE)
    assert sorted(tmp_path.rglob("*")) == before
    assert open_table(str(tmp_path), STORAGE) is None
