from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.output.export.night import export_night
from pipeline.output.export.request import ExportRequest
from pipeline.output.export.source import plan_parts
from pipeline.output.table import DataFile
from tests.unit.inference.nights import Story
from tests.unit.output.export.exporting import read_export
from tests.unit.output.scored import STORAGE

FIRST, SECOND = "2026-11-22", "2026-11-23"
Keys = set[tuple[str, int]]


def test_neighbours_are_joined_up_to_a_size() -> None:
    files = [DataFile(name, size, 1) for name, size in [("a", 3), ("b", 4), ("c", 4), ("d", 20), ("e", 1)]]
    parts = plan_parts(files, 8)
    assert [[file.path for file in part] for part in parts] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert plan_parts([], 8) == []


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    """A snapshot of two nights: on the second one file is there no more and another is new."""
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot"})
    story.put("a", 20, 1)
    story.put("b", 20, 2)
    story.night(FIRST)
    story.remove("a")
    story.put("c", 20, 3)
    story.night(SECOND)
    return story


def exported(story: Story, run_date: str) -> Keys:
    target = story.root / "plain"
    export_night(ExportRequest(str(story.table), run_date, str(target)), STORAGE)
    rows = read_export(target, run_date)
    assert {str(row["run_date"]) for row in rows} == {run_date}
    return {(Path(row["source_file"]).stem, row["source_row"]) for row in rows}


def both(*names: str) -> Keys:
    return {(name, row) for name in names for row in range(20)}


def test_a_snapshot_s_night_is_the_whole_table_as_that_night_left_it(story: Story) -> None:
    assert exported(story, SECOND) == both("b", "c")
    assert exported(story, FIRST) == both("a", "b")


def test_an_older_snapshot_whose_files_are_gone_is_refused(story: Story) -> None:
    live = story.live()
    (gone,) = [
        path for path in story.table.glob("run_date=*/*.parquet") if str(path.relative_to(story.table)) not in live
    ]
    gone.unlink()
    with pytest.raises(CorpusError, match="1 files of the snapshot that run_date=2026-11-22 left are gone"):
        exported(story, FIRST)
    assert exported(story, SECOND) == both("b", "c")


def test_a_snapshot_s_night_that_never_was_is_refused(story: Story) -> None:
    with pytest.raises(CorpusError, match="no manifest of night 2026-11-30"):
        exported(story, "2026-11-30")


def test_a_column_that_was_added_is_there_and_null_for_rows_of_before(tmp_path: Path, bundle_directory: Path) -> None:
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot", "vanished": "keep"})
    story.put("a", 20, 1)
    story.put("b", 20, 2)
    story.night(FIRST)
    story.remove("a")
    story.blocks = {"corpus": {"keep": ["id", "tag"], "shard_rows": 20}}
    path = story.corpus / "b.parquet"
    pq.write_table(pq.read_table(path).append_column("tag", pa.array(["new"] * 20, pa.large_string())), path)
    story.night(SECOND)
    expected = {**dict.fromkeys(both("a")), **dict.fromkeys(both("b"), "new")}
    target = story.root / "plain"
    for columns in ((), ("source_file", "source_row", "tag")):
        export_night(ExportRequest(str(story.table), SECOND, f"{target}{len(columns)}", columns=columns), STORAGE)
        rows = read_export(Path(f"{target}{len(columns)}"), SECOND)
        assert {(Path(row["source_file"]).stem, row["source_row"]): row["tag"] for row in rows} == expected
    export_night(ExportRequest(str(story.table), FIRST, str(target)), STORAGE)
    assert "tag" not in read_export(target, FIRST)[0], "no row of that night has it"
