"""A file that is corrupt tonight, where corrupt files are left out: a snapshot's last good rows of it stay, or go."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.errors import CorpusError, FilesSkippedError
from pipeline.inference.publish import check_complete
from pipeline.output.compact import compact_night
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.storage import Storage
from tests.unit.inference.nights import Story, finish

D20, D21, D22, D23 = (f"2026-11-{day}" for day in range(20, 24))
STORAGE = Storage()


def make_story(root: Path, bundle: Path, **output: str) -> Story:
    """Three files, published in the first night; `b` has a row that cannot be scored."""
    corpus = {"keep": ["id"], "shard_rows": 20, "corrupt_files": "skip"}
    story = Story(root, bundle, {"mode": "snapshot", **output}, blocks={"corpus": corpus})
    for index, name in enumerate("abc"):
        story.put(name, 25 + index, index, bad=name == "b")
    story.night(D20)
    assert story.shown() == story.rows
    return story


def bad_row(story: Story) -> set[tuple[str, int]]:
    return {(str(story.corpus / "b.parquet"), 0)}


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("vanished", ["keep", "drop"])
def test_last_good_rows_stay_until_the_file_can_be_read_or_go(
    vanished: str, is_compacted: bool, tmp_path: Path, bundle_directory: Path
) -> None:
    story = make_story(tmp_path, bundle_directory, vanished=vanished)
    if is_compacted:
        compact_night(str(story.table), D20, 1_000_000, STORAGE)
    story.spoil("b")
    story.put("a", 12, 40)
    run = story.prepare(D21)
    report = finish(run)
    with pytest.raises(FilesSkippedError, match=r"b\.parquet"):
        check_complete(run)
    assert [file.uri for file in report.skipped_files] == [str(story.corpus / "b.parquet")]
    assert report.num_rows_this_run == 12
    kept = dict(story.vanished) if vanished == "keep" else {}
    assert len(kept) == (25 if vanished == "keep" else 0)
    assert story.shown() == story.rows | kept
    assert story.quarantined() == (bad_row(story) if vanished == "keep" else set())
    assert story.verify(D21) == ()

    assert story.prepare(D22).is_published
    assert story.night(D22).published is False
    vacuum_table(str(story.table), VacuumOptions(retention_s=0, safety_s=0), STORAGE)
    assert story.shown() == story.rows | kept

    story.put("b", 31, 41)
    assert story.night(D23).num_rows_this_run == 31
    assert story.shown() == story.rows
    assert story.quarantined() == set()
    assert story.verify(D23) == ()


def test_a_file_that_is_restored_as_it_was_stands_once(tmp_path: Path, bundle_directory: Path) -> None:
    story = make_story(tmp_path, bundle_directory, vanished="keep")
    whole, before = (story.corpus / "b.parquet").read_bytes(), story.shown()
    story.spoil("b")
    story.night(D21)
    assert story.shown() == before
    (story.corpus / "b.parquet").write_bytes(whole)
    story.night(D22)
    assert story.shown() == before
    assert story.quarantined() == bad_row(story)
    assert story.prepare(D23).is_published


@pytest.mark.parametrize("vanished", ["keep", "drop"])
def test_a_corrupt_file_that_is_removed_is_as_any_that_is_gone(
    vanished: str, tmp_path: Path, bundle_directory: Path
) -> None:
    story = make_story(tmp_path, bundle_directory, vanished=vanished)
    story.spoil("b")
    story.night(D21)
    (story.corpus / "b.parquet").unlink()
    story.night(D22)
    assert story.shown() == story.rows | (story.vanished if vanished == "keep" else {})


def test_a_file_that_was_never_read_shows_nothing(tmp_path: Path, bundle_directory: Path) -> None:
    story = make_story(tmp_path, bundle_directory, vanished="keep")
    story.put("d", 9, 50)
    story.spoil("d")
    story.night(D21)
    assert story.shown() == story.rows


@pytest.mark.parametrize("vanished", ["keep", "drop"])
def test_a_corpus_that_is_corrupt_as_a_whole_is_refused_and_the_table_stays(
    vanished: str, tmp_path: Path, bundle_directory: Path
) -> None:
    story = make_story(tmp_path, bundle_directory, vanished=vanished)
    version, before = DeltaTable(story.table).version(), story.shown()
    for name in "abc":
        story.spoil(name)
    with pytest.raises(CorpusError, match=r"no rows in 0 files \(3 corrupt ones left out\)"):
        story.prepare(D21)
    assert DeltaTable(story.table).version() == version
    assert story.shown() == before
