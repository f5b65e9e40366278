from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.output.export.remove import remove_replaced
from tests.unit.output.export.exporting import (
    export,
    make_night,
    named_files,
    read_delta,
    read_export,
    request,
    standing_files,
)
from tests.unit.output.scored import NEXT_NIGHT, STORAGE

HOUR_S = 3_600


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An export of a night that was scored twice, and of the next night."""
    table, target = tmp_path / "scores", tmp_path / "plain"
    make_night(table)
    export(table, target)
    make_night(table, run_id="r2", label="new")
    make_night(table, 2, NEXT_NIGHT)
    export(table, target)
    export(table, target, NEXT_NIGHT)
    return target


def replaced_files(target: Path) -> list[str]:
    return sorted(set(standing_files(target)) - set(named_files(target)))


def receipts(target: Path) -> int:
    return len(list((target / "_export").rglob("0*.json")))


def age(target: Path, hours: float) -> None:
    """Everything there is was written hours ago."""
    for path in target.rglob("*"):
        moment = path.stat().st_mtime - hours * HOUR_S
        os.utime(path, (moment, moment))


def test_what_was_replaced_goes_when_its_successor_has_stood_for_the_grace(target: Path) -> None:
    old = replaced_files(target)
    assert len(old) == 4
    age(target, 2)
    assert remove_replaced(str(target), 3 * HOUR_S, STORAGE) == []
    assert remove_replaced(str(target), HOUR_S, STORAGE) == old
    assert replaced_files(target) == []
    assert receipts(target) == len(standing_files(target)) + len(standing_files(target, NEXT_NIGHT))
    assert read_export(target) == read_delta(target.with_name("scores"))


def test_the_grace_begins_with_the_switch_and_not_with_the_old_files(target: Path) -> None:
    for path in replaced_files(target):
        os.utime(path, (1, 1))
    assert remove_replaced(str(target), HOUR_S, STORAGE) == []


def test_what_another_export_may_be_writing_stays(target: Path) -> None:
    """The night was published a third time; an export of it is under way, long after the last switch."""
    age(target, 2)
    make_night(target.with_name("scores"), run_id="r3", label="newer")
    unfinished = export_without_switch(target)
    assert len(unfinished) == 4
    remove_replaced(str(target), HOUR_S, STORAGE)
    assert replaced_files(target) == unfinished


def export_without_switch(target: Path) -> list[str]:
    manifest = Path(request(target.with_name("scores"), target).manifest_uri)
    before, content = set(standing_files(target)), manifest.read_bytes()
    moment = manifest.stat().st_mtime
    export(target.with_name("scores"), target)
    manifest.write_bytes(content)
    os.utime(manifest, (moment, moment))
    return sorted(set(standing_files(target)) - before)


def test_at_once_means_at_once(target: Path) -> None:
    old = replaced_files(target)
    assert export(target.with_name("scores"), target, keep_s=0).removed == tuple(old)
    assert replaced_files(target) == []


def test_a_file_of_an_attempt_that_lost_goes_and_one_being_written_stays(target: Path) -> None:
    folder = Path(named_files(target)[0]).parent
    lost, under_way = folder / "part-00001-ffffffff.parquet", folder / ".ab.tmp"
    lost.write_bytes(b"1")
    under_way.write_bytes(b"1")
    assert remove_replaced(str(target), HOUR_S, STORAGE) == [str(lost)]
    age(target, 2)
    assert str(under_way) in remove_replaced(str(target), HOUR_S, STORAGE)


def test_an_unfinished_first_export_keeps_its_parts(target: Path) -> None:
    Path(request(target.with_name("scores"), target, NEXT_NIGHT).manifest_uri).unlink()
    age(target, 100)
    remove_replaced(str(target), 0, STORAGE)
    assert len(standing_files(target, NEXT_NIGHT)) == 2


def test_nothing_else_is_touched(target: Path) -> None:
    strangers = [target / "README.txt", target / "run_date=2026-11-23" / "notes.txt"]
    for path in strangers:
        path.write_text("mine")
    age(target, 100)
    remove_replaced(str(target), 0, STORAGE)
    assert all(path.exists() for path in strangers)
