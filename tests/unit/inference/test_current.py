"""Where nights hold only what is new: what is current, whatever becomes of files and of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import parse_spec
from pipeline.errors import CorpusError, SpecError
from pipeline.inference.publish import publish_run
from pipeline.inference.spec import ScoreSpec
from pipeline.output.table import Night, Published, publish_night
from pipeline.storage import Storage
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story, story_of_three
from tests.unit.inference.scoring import score_all

D20, D21, D22, D23, D24 = (f"2026-11-{day}" for day in range(20, 25))


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    return story_of_three(tmp_path, bundle_directory)


@pytest.mark.parametrize("vanished", ["drop", "keep"])
def test_rows_of_a_vanished_file_stay_in_their_night_and_are_current_where_asked(story: Story, vanished: str) -> None:
    story.output = {"select": "new", "vanished": vanished}
    story.night(D20)
    before = story.live()
    story.remove("c")
    assert vanished == "keep" or not story.prepare(D20).is_published
    assert story.night(D21).num_rows == 0
    assert story.prepare(D21).is_published
    assert story.current() == story.rows | (story.vanished if vanished == "keep" else {})
    assert story.live() == before
    story.put("c", 5, 40)
    assert story.night(D22).num_rows == 5
    assert story.current() == story.rows


def test_a_file_that_comes_back_as_it_was_is_current_again(story: Story) -> None:
    story.night(D20)
    path, elsewhere = story.corpus / "c.parquet", story.root / "c.parquet"
    path.rename(elsewhere)
    story.night(D21)
    assert story.current() == {key: value for key, value in story.rows.items() if key[0] != str(path)}
    elsewhere.rename(path)
    assert story.night(D22).num_rows == 27
    assert story.current() == story.rows


def test_a_file_without_rows_any_more_has_no_current_rows(story: Story) -> None:
    story.night(D20)
    story.put("c", 0, 2)
    story.put("d", 0, 3)
    report = story.night(D21)
    assert (report.num_files, report.num_rows) == (2, 0)
    assert story.current() == story.rows
    story.put("c", 4, 2)
    story.night(D22)
    assert story.current() == story.rows


def kill_before(place: str, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of the story that dies before it publishes one of its tables."""
    killed = story.prepare(D21)
    records = score_all(killed)

    def die_before(uri: str, night: Night, storage: Storage) -> Published:
        if uri.endswith(place):
            raise KeyboardInterrupt("killed")
        return publish_night(uri, night, storage)

    with monkeypatch.context() as patch:
        for module in ("inference.publish", "output.current"):
            patch.setattr(f"pipeline.{module}.publish_night", die_before)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            publish_run(killed, records, "killed", 0.0)


@pytest.mark.parametrize("place", ["_quarantine", "table", "_current"])
def test_what_is_current_is_whole_wherever_a_night_is_killed(
    story: Story, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.night(D20)
    before = dict(story.rows)
    story.put("b", 25, 11, bad=True)
    story.put("d", 10, 3)
    kill_before(place, story, monkeypatch)
    assert story.current() == before
    assert not story.prepare(D21).is_published
    story.night(D21)
    assert story.current() == story.rows
    assert story.prepare(D21).is_published


def test_an_earlier_night_that_is_filled_in_says_nothing_of_what_is_current(story: Story) -> None:
    story.night(D20)
    story.night(D22)
    before = sorted(story.table.glob("_current/run_date=*/*"))
    story.night(D21)
    assert sorted(story.table.glob("_current/run_date=*/*")) == before
    assert story.prepare(D21).is_published
    assert story.current() == story.rows


def test_a_night_run_again_after_a_backfill_keeps_the_rows_that_later_nights_point_to(story: Story) -> None:
    story.night(D20)
    story.put("d", 10, 3)
    story.night(D22)
    story.put("e", 10, 4)
    story.night(D23)
    assert story.night(D21).num_rows == 20, "all that came since, which later nights hold as well"
    assert story.prepare(D22).is_published
    story.put("f", 10, 5)
    assert story.night(D22).num_rows == 20, "`d`, as before, and `f`"
    assert story.current().keys() >= {key for key in story.rows if key[0][-9] != "f"}
    assert story.night(D24).num_rows == 10
    assert story.current() == story.rows


def test_what_a_night_lost_as_it_was_run_again_is_scored_by_the_next(story: Story) -> None:
    story.night(D20)
    story.put("d", 30, 3)
    story.night(D21)
    path, elsewhere = story.corpus / "c.parquet", story.root / "c.parquet"
    path.rename(elsewhere)
    story.night(D20, rescore=True)
    (problem,) = story.verify(D20)
    assert problem == f"_current reads 1 files in this night, which does not hold them: {path}"
    elsewhere.rename(path)
    story.put("e", 10, 4)
    assert story.night(D22).num_rows == 27 + 10
    assert story.current() == story.rows
    assert [story.verify(night) for night in (D20, D21, D22)] == [(), (), ()]


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_night_that_would_lose_rows_as_it_is_run_again_is_refused(story: Story, is_removed: bool) -> None:
    """Of a file that is gone and kept, or that is corrupt now and skipped."""
    if is_removed:
        story.output = {"select": "new", "vanished": "keep"}
    else:
        story.blocks = {"corpus": {"keep": ["id"], "shard_rows": 20, "corrupt_files": "skip"}}
    story.put("a", 25, 0)
    story.put("b", 25, 1)
    story.night(D20)
    (story.remove if is_removed else story.spoil)("b")
    words = "are gone from the corpus" if is_removed else "are corrupt now"
    with pytest.raises(CorpusError, match=f"holds rows of 1 files that {words}"):
        story.prepare(D20)
    story.night(D21)
    assert story.current() == story.rows | story.vanished
    story.night(D20, rescore=True)
    assert story.shown(D20) == story.rows


def asked_to_rescore(story: Story) -> bool:
    return True


def changed_model(story: Story) -> bool:
    make_bundle(story.root / "other", seed=7)
    story.bundle = story.root / "other"
    return False


@pytest.mark.parametrize("change", [asked_to_rescore, changed_model])
@pytest.mark.parametrize("is_removed", [True, False])
def test_rows_that_are_kept_stay_current_when_everything_else_is_scored_again(
    story: Story, is_removed: bool, change: Callable[[Story], bool]
) -> None:
    """Of a file that is gone and kept, or that is corrupt now and skipped."""
    story.output = {"select": "new", "vanished": "keep" if is_removed else "drop"}
    story.blocks = {"corpus": {"keep": ["id"], "shard_rows": 20, "corrupt_files": "skip"}}
    story.put("b", 25, 1)
    story.night(D20)
    (story.remove if is_removed else story.spoil)("b")
    rescore = change(story)
    story.night(D21, rescore)
    assert story.current() == story.rows | story.vanished
    assert story.prepare(D21).is_published
    story.put("d", 10, 3)
    story.night(D22)
    assert story.current() == story.rows | story.vanished
    assert [story.verify(night) for night in (D20, D21, D22)] == [(), (), ()]
    story.put("b", 5, 40)
    story.night(D23)
    assert story.current() == story.rows


@pytest.mark.parametrize("is_rescored", [True, False])
def test_a_night_that_would_lose_rows_is_refused_after_a_rescoring_and_to_another_model(
    story: Story, is_rescored: bool
) -> None:
    story.output = {"select": "new", "vanished": "keep"}
    story.night(D20, rescore=is_rescored)
    story.remove("c")
    if not is_rescored:
        changed_model(story)
    with pytest.raises(CorpusError, match="holds rows of 1 files that are gone from the corpus"):
        story.prepare(D20)
    story.night(D21)
    assert story.current() == story.rows | story.vanished


def test_what_a_killed_night_could_not_say_is_not_lost_to_another_model(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.output = {"select": "new", "vanished": "keep"}
    story.night(D20)
    story.put("d", 10, 3)
    kill_before("_current", story, monkeypatch)
    story.remove("d")
    story.remove("a")
    changed_model(story)
    with pytest.raises(CorpusError, match="holds rows of 1 files that are gone from the corpus"):
        story.prepare(D21)
    story.night(D22)
    assert story.current() == story.rows | story.vanished
    assert [story.verify(night) for night in (D20, D22)] == [(), ()]


def test_what_later_nights_let_go_does_not_come_back_with_the_newest_rows(story: Story) -> None:
    story.night(D20)
    story.remove("c")
    assert story.night(D21).num_rows == 0
    dropped, story.vanished = story.vanished, {}
    story.output = {"select": "new", "vanished": "keep"}
    changed_model(story)
    story.night(D22)
    assert story.current() == story.rows
    assert dropped


def test_a_night_of_everything_keeps_no_vanished_file() -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o", "vanished": "keep"}}
    with pytest.raises(SpecError, match="vanished: keep is for a snapshot or select: new"):
        parse_spec(raw, ScoreSpec, "spec.yaml")
