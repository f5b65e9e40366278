"""Nights that were published without a row: nothing was new, or everything was quarantined. They are nights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.analysis.run import analyse_duplicates
from pipeline.analysis.spec import DuplicatesSpec
from pipeline.errors import CorpusError, TooManyBadRowsError
from pipeline.inference.verify import SampleCheck, rescore_sample
from pipeline.output.compact import compact_night
from pipeline.output.compare import compare_nights
from pipeline.output.export.night import export_night
from pipeline.output.export.request import parse_request
from pipeline.output.history import list_live_files, read_nights
from pipeline.output.rows import check_nights
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from tests.tiny import make_rows
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import score_all

FIRST, SECOND = "2026-11-23", "2026-11-24"
STORAGE = Storage()


@pytest.fixture
def quiet(tmp_path: Path, bundle_directory: Path) -> Story:
    """Of the second night nothing is new."""
    story = Story(tmp_path, bundle_directory, {"select": "new"})
    story.put("a", 4, 1)
    story.night(FIRST)
    story.night(SECOND)
    return story


def put_bad(story: Story, name: str) -> None:
    """Write or replace a corpus file by four rows, none of which can be scored."""
    story.corpus.mkdir(exist_ok=True)
    rows = make_rows(4, 1)
    pq.write_table(rows.set_column(1, "text", pa.nulls(4, pa.string())), story.corpus / f"{name}.parquet")


def all_bad(tmp_path: Path, bundle: Path) -> Story:
    """A night of four rows, none of which can be scored."""
    story = Story(tmp_path, bundle, blocks=allowing(1.0))
    put_bad(story, "a")
    story.night(FIRST)
    return story


def all_good(tmp_path: Path, bundle: Path, output: dict[str, Any]) -> Story:
    """A night of four rows that were scored, of a table of which half may be bad."""
    story = Story(tmp_path, bundle, output, blocks=allowing(0.5))
    story.put("a", 4, 1)
    story.night(FIRST)
    return story


def allowing(max_bad_fraction: float) -> dict[str, Any]:
    return {"corpus": {"keep": ["id"], "shard_rows": 4, "max_bad_fraction": max_bad_fraction}}


def test_what_checks_and_shows_a_night_takes_one_of_no_rows(quiet: Story) -> None:
    table = str(quiet.table)
    assert quiet.prepare(SECOND).is_published
    assert quiet.verify(SECOND) == ()
    found = compare_nights(table, FIRST, SECOND, STORAGE)
    assert (found.num_rows_only_first, found.num_rows_second) == (4, 0)
    assert list_live_files(table, STORAGE, SECOND) == []
    assert compact_night(table, SECOND, 2**20, STORAGE).num_merged_files == 0
    assert rescore_sample(table, SECOND, SampleCheck(str(quiet.bundle)), STORAGE).num_rows == 0
    assert [(night.run_date, night.num_rows) for night in read_nights(table, STORAGE)] == [(FIRST, 4), (SECOND, 0)]


@pytest.mark.parametrize("columns", [(), ("id", "label")])
def test_its_export_is_an_empty_night(quiet: Story, columns: tuple[str, ...]) -> None:
    request = parse_request(str(quiet.table), SECOND, str(quiet.root / "plain"), columns=columns)
    assert export_night(request, STORAGE).switched
    assert Path(request.manifest_uri).read_bytes() == b""
    assert not export_night(request, STORAGE).switched


def test_what_needs_rows_says_that_there_are_none(quiet: Story) -> None:
    with pytest.raises(CorpusError, match=f"run_date={SECOND}: holds no rows"):
        check_nights([f"{quiet.table}/run_date={SECOND}"], STORAGE)
    spec = DuplicatesSpec(table=str(quiet.table), output=str(quiet.root / "found"))
    with pytest.raises(CorpusError, match=f"night {SECOND} holds no rows"):
        analyse_duplicates(spec, SECOND)


def test_a_night_of_quarantined_rows_alone_is_verified_with_them(tmp_path: Path, bundle_directory: Path) -> None:
    story = all_bad(tmp_path, bundle_directory)
    found = verify_night(str(story.table), FIRST, STORAGE)
    assert (found.problems, found.num_rows, found.num_quarantined_rows) == ((), 0, 4)
    (night,) = read_nights(str(story.table), STORAGE)
    assert (night.run_date, night.num_rows, night.num_quarantined_rows) == (FIRST, 0, 4)
    (bad,) = (story.table / "_quarantine").glob("run_date=*/*.parquet")
    bad.unlink()
    assert any("is missing" in problem for problem in verify_night(str(story.table), FIRST, STORAGE).problems)


@pytest.mark.parametrize("output", [{}, {"select": "new"}, {"mode": "snapshot"}])
def test_a_night_refused_for_its_bad_rows_is_refused_again(
    tmp_path: Path, bundle_directory: Path, output: dict[str, Any]
) -> None:
    story = all_good(tmp_path, bundle_directory, output)
    put_bad(story, "a")
    for _ in range(2):
        assert not story.prepare(SECOND).is_published
        with pytest.raises(TooManyBadRowsError, match="4 of 4 rows cannot be scored"):
            story.night(SECOND)
    story.blocks = allowing(1.0)
    assert not story.prepare(SECOND).is_published
    story.night(SECOND)
    assert story.prepare(SECOND).is_published


@pytest.mark.parametrize("output", [{"mode": "snapshot"}, {"mode": "snapshot", "vanished": "keep"}])
def test_a_snapshot_that_lacks_only_quarantined_rows_is_not_published(
    tmp_path: Path, bundle_directory: Path, output: dict[str, Any]
) -> None:
    story = all_good(tmp_path, bundle_directory, output)
    put_bad(story, "b")
    score_all(story.prepare(SECOND))  # the driver dies before it publishes
    assert not story.prepare(SECOND).is_published
    story.night(SECOND)
    assert story.prepare(SECOND).is_published
    assert len(story.quarantined()) == 4
    story.remove("b")
    keeps = "vanished" in output
    assert story.prepare(SECOND).is_published is keeps
    story.night(SECOND)
    assert len(story.quarantined()) == (4 if keeps else 0)


def test_a_night_of_a_snapshot_that_changed_nothing_is_one(tmp_path: Path, bundle_directory: Path) -> None:
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot"})
    story.put("a", 4, 1)
    story.night(FIRST)
    story.night(SECOND)
    assert story.verify(SECOND) == ()
    assert compact_night(str(story.table), SECOND, 2**20, STORAGE).num_merged_files == 0
    assert [night.run_date for night in read_nights(str(story.table), STORAGE)] == [FIRST]


def test_a_night_whose_files_were_taken_out_is_none(quiet: Story) -> None:
    DeltaTable(quiet.table).delete()
    with pytest.raises(CorpusError, match=f"no night {FIRST}"):
        verify_night(str(quiet.table), FIRST, STORAGE)
