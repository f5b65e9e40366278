"""`bertmill export` on a night made without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.jobs.command_line import Finished, assert_refused, run_command
from tests.unit.output.export.exporting import make_night, named_files, read_csv_export, read_delta, read_export
from tests.unit.output.scored import NIGHT


@pytest.fixture
def table(tmp_path: Path) -> Path:
    make_night(tmp_path / "scores", 2)
    return tmp_path / "scores"


def export(table: Path, *arguments: str) -> Finished:
    finished = run_command("export", str(table), "--date", NIGHT, *arguments)
    assert finished.exit_code == 0, finished.stderr
    return finished


def test_a_night_is_exported_once(table: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    first = export(table, "--to", str(target))
    assert f"exported: night {NIGHT} of {table}, version 1" in first.stdout
    assert "6 rows in 1 parquet files" in first.stdout
    assert f"{target}/_symlink_format_manifest/run_date={NIGHT}/manifest" in first.stdout
    assert read_export(target) == read_delta(table)
    assert f"nothing to do: night {NIGHT}" in export(table, "--to", str(target)).stdout


def test_json_says_the_same(table: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    told = json.loads(export(table, "--to", str(target), "--format", "csv", "--columns", "id, label", "--json").stdout)
    assert (told["run_date"], told["format"], told["num_rows"], told["switched"]) == (NIGHT, "csv", 6, True)
    assert [file["uri"] for file in told["files"]] == named_files(target)
    assert Path(told["start"]).read_text().split() == named_files(target)
    csv = [{"id": row["id"], "label": row["label"]} for row in read_delta(table)]
    text = [line for path in named_files(target) for line in Path(path).read_text().splitlines()]
    assert text == ['"id","label"', *(f'"{row["id"]}","{row["label"]}"' for row in csv)]


def test_what_was_replaced_goes_as_asked(table: Path, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    export(table, "--to", str(target), "--format", "csv")
    old = named_files(target)
    make_night(table, 2, run_id="r2", label="new")
    assert "removed" not in export(table, "--to", str(target), "--format", "csv").stdout
    assert Path(old[0]).exists()
    again = export(table, "--to", str(target), "--format", "csv", "--keep-hours", "0")
    assert "replaced earlier and removed now: 1 files" in again.stdout
    assert not Path(old[0]).exists()
    assert {row["label"] for row in read_csv_export(target)} == {"new"}


def test_mistakes_are_told_before_anything_is_written(table: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "plain")
    for arguments, words in (
        (("--to", target, "--format", "xlsx"), "--format: 'xlsx'; expected parquet or csv"),
        (("--to", f"{table}/plain"), "expected a place outside the table"),
        (("--to", target, "--columns", "nothing"), "--columns: nothing not there"),
    ):
        finished = run_command("export", str(table), "--date", NIGHT, *arguments)
        assert finished.exit_code == 2
        assert words in finished.stderr
    assert_refused(run_command("export", str(table), "--date", "2026-11-30", "--to", target), "no night 2026-11-30")
    assert not (tmp_path / "plain").exists()
