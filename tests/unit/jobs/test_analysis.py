"""`bertmill duplicates` and `bertmill topics` on a night made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.analysis.embedded import embedded_rows, make_night
from tests.unit.jobs.command_line import Finished, assert_refused, run_command, write_spec
from tests.unit.output.scored import NIGHT

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.01], [0.0, 1.0], None]


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    make_night(tmp_path / "scores", embedded_rows(VECTORS))
    return {"table": str(tmp_path / "scores"), "output": str(tmp_path / "found")}


def run(job: str, raw: dict[str, Any], tmp_path: Path, *arguments: str) -> Finished:
    return run_command(job, write_spec(tmp_path / "spec.yaml", raw), "--date", NIGHT, *arguments)


def test_duplicates_are_told_and_asked_for_twice(raw: dict[str, Any], tmp_path: Path) -> None:
    first = run("duplicates", raw, tmp_path)
    assert first.exit_code == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == f"duplicates of {tmp_path}/scores, version 1"
    assert lines[1] == "  4 of 4 rows in 2 groups of near-duplicates; 1 without an embedding"
    assert Path(lines[2].strip()).exists()
    again = run("duplicates", raw, tmp_path, "--set", "block_rows=16")
    assert again.stdout.splitlines()[0] == f"{lines[0]}: already there"
    stricter = run("duplicates", raw, tmp_path, "--set", "threshold=1.0", "--set", "keep_hours=0")
    assert "2 of 4 rows in 1 groups" in stricter.stdout
    assert "replaced earlier and removed now: 1 files" in stricter.stdout


def test_topics_are_told(raw: dict[str, Any], tmp_path: Path) -> None:
    done = run("topics", {**raw, "num_topics": 2, "text": "label"}, tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "  4 rows in 2 topics; 1 without an embedding" in done.stdout
    assert done.stdout.count(".parquet") == 2


@pytest.mark.parametrize("job", ["duplicates", "topics"])
def test_the_work_folder_is_made_or_refused(job: str, raw: dict[str, Any], tmp_path: Path) -> None:
    options = {"num_topics": 2, "text": "label"} if job == "topics" else {}
    made = run(job, {**raw, **options, "work": str(tmp_path / "new" / "work")}, tmp_path)
    assert made.exit_code == 0, made.stderr
    assert list((tmp_path / "new" / "work").iterdir()) == []
    (tmp_path / "file").touch()
    refused = run(job, {**raw, **options, "output": f"{tmp_path}/other", "work": f"{tmp_path}/file/work"}, tmp_path)
    assert_refused(refused, f"work: {tmp_path}/file/work cannot be used")


@pytest.mark.parametrize("job", ["duplicates", "topics"])
def test_mistakes_are_told_before_anything_is_written(job: str, raw: dict[str, Any], tmp_path: Path) -> None:
    for change, words in (
        ({"column": "embeding"}, "column: 'embeding' is not in the table"),
        ({"surprise": 1}, "surprise: is not a known field"),
        ({"output": raw["table"] + "/x"}, "output and table overlap"),
    ):
        finished = run(job, {**raw, **change}, tmp_path)
        assert finished.exit_code == 2
        assert words in finished.stderr
    path = write_spec(tmp_path / "spec.yaml", raw)
    assert_refused(run_command(job, path, "--date", "2026-11-30"), "no night 2026-11-30")
    assert run_command(job, path, "--date", "yesterday").exit_code == 2
    assert not (tmp_path / "found").exists()
