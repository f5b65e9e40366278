from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CorpusError
from pipeline.output.history import NightSummary, list_live_files, read_nights, read_versions, table_columns
from pipeline.output.table import open_table, publish_night
from pipeline.storage import Storage
from tests.unit.output.records import SCHEMA, night, write_rows

STORAGE = Storage()
FIRST, SECOND = "2026-11-23", "2026-11-24"


def test_nights_are_summed_up_by_date(tmp_path: Path) -> None:
    a, b = write_rows(tmp_path, FIRST, "a", [1, 2]), write_rows(tmp_path, FIRST, "b", [3])
    later = write_rows(tmp_path, SECOND, "c", [4])
    publish_night(str(tmp_path), night(SECOND, later, model_version="m2"), STORAGE)
    publish_night(str(tmp_path), night(FIRST, a), STORAGE)
    published = publish_night(str(tmp_path), night(FIRST, a, b, model_version="m3"), STORAGE)
    first, second = read_nights(f"{tmp_path}/", STORAGE)
    assert first == NightSummary(FIRST, 3, 2, a.size_bytes + b.size_bytes, 0, published.version, ("m3",))
    assert second == NightSummary(SECOND, 1, 1, later.size_bytes, 0, 1, ("m2",))


def test_quarantined_rows_are_counted_by_night(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "b", [2])), STORAGE)
    quarantine = tmp_path / "_quarantine"
    publish_night(str(quarantine), night(SECOND, write_rows(quarantine, SECOND, "bad", [7, 8])), STORAGE)
    assert [item.num_quarantined_rows for item in read_nights(str(tmp_path), STORAGE)] == [0, 2]


def test_a_place_without_a_table_is_an_error(tmp_path: Path) -> None:
    for look in (read_nights, read_versions, list_live_files, table_columns):
        with pytest.raises(CorpusError, match=f"{tmp_path}: no Delta table there"):
            look(str(tmp_path), STORAGE)


def test_the_columns_are_those_published(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    assert table_columns(str(tmp_path), STORAGE).names == SCHEMA.names


def two_versions_of_a_night(tmp_path: Path) -> None:
    a, b = write_rows(tmp_path, FIRST, "a", [1, 2]), write_rows(tmp_path, FIRST, "b", [3])
    publish_night(str(tmp_path), night(FIRST, a, b, run_id="r1"), STORAGE)
    publish_night(str(tmp_path), night(FIRST, b, write_rows(tmp_path, FIRST, "c", [1]), run_id="r2"), STORAGE)


def test_versions_say_which_run_added_and_removed_how_much(tmp_path: Path) -> None:
    two_versions_of_a_night(tmp_path)
    newest, first, creation = read_versions(str(tmp_path), STORAGE)
    assert [newest.version, first.version, creation.version] == [2, 1, 0]
    assert (newest.run_date, newest.run_id, newest.model_version) == (FIRST, "r2", "m1")
    assert (newest.num_added_files, newest.num_removed_files) == (1, 1)
    assert (newest.num_added_rows, newest.num_removed_rows) == (1, 2)
    assert (first.run_id, first.num_added_rows, first.num_removed_rows) == ("r1", 3, 0)
    assert (creation.run_date, creation.num_added_files) == ("", 0)
    assert newest.committed_s >= first.committed_s > 1_700_000_000


def test_versions_whose_log_is_gone_are_left_out_and_what_they_added_is_unknown(tmp_path: Path) -> None:
    two_versions_of_a_night(tmp_path)
    table = open_table(str(tmp_path), STORAGE)
    assert table is not None
    table.create_checkpoint()
    for version in (0, 1):
        (tmp_path / "_delta_log" / f"{version:020}.json").unlink()
    (newest,) = read_versions(str(tmp_path), STORAGE)
    assert (newest.version, newest.num_added_rows, newest.num_removed_rows) == (2, 1, None)


def test_rows_that_a_checkpoint_still_knows_are_counted(tmp_path: Path) -> None:
    two_versions_of_a_night(tmp_path)
    table = open_table(str(tmp_path), STORAGE)
    assert table is not None
    table.create_checkpoint()
    (tmp_path / "_delta_log" / f"{0:020}.json").unlink()
    (tmp_path / "_delta_log" / f"{1:020}.json").unlink()
    publish_night(str(tmp_path), night(FIRST, run_id="r3"), STORAGE)
    assert [version.num_removed_rows for version in read_versions(str(tmp_path), STORAGE)] == [2, None]


def test_live_files_are_absolute_and_only_those_live(tmp_path: Path) -> None:
    two_versions_of_a_night(tmp_path)
    other = write_rows(tmp_path, SECOND, "d", [4])
    publish_night(str(tmp_path), night(SECOND, other), STORAGE)
    files = list_live_files(f"{tmp_path}/", STORAGE)
    assert [file.uri.removeprefix(f"{tmp_path}/") for file in files] == [
        f"run_date={FIRST}/b.parquet",
        f"run_date={FIRST}/c.parquet",
        f"run_date={SECOND}/d.parquet",
    ]
    (last,) = list_live_files(str(tmp_path), STORAGE, SECOND)
    assert last == files[-1]
    assert (last.run_date, last.size_bytes, last.num_rows) == (SECOND, other.size_bytes, 1)


def test_a_night_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    two_versions_of_a_night(tmp_path)
    with pytest.raises(CorpusError, match=f"no night {SECOND}") as caught:
        list_live_files(str(tmp_path), STORAGE, SECOND)
    assert FIRST in caught.value.remedy
