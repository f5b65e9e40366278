"""The page of a table's nights against what their runs did, and what is written down of runs that fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.errors import (
    CorpusError,
    FilesSkippedError,
    InterruptedRunError,
    NightTakenError,
    Stopped,
    TooManyBadRowsError,
    TransientStorageError,
)
from pipeline.output.history import read_versions
from pipeline.output.ledger import Ledger
from pipeline.report.failures import noting_failures, read_failures
from pipeline.report.nights import TableNights, read_table_nights
from pipeline.report.nights_page import render_nights
from pipeline.report.saved import write_report
from pipeline.storage import Storage
from tests.unit.inference.nights import Story, begin, finish
from tests.unit.inference.scoring import scorer_for
from tests.unit.jobs.command_line import assert_refused, run_command
from tests.unit.output.scored import FINGERPRINT, NEXT_NIGHT, NIGHT
from tests.unit.report.reading import Page

THIRD = "2026-11-25"
STORAGE = Storage()


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    """Two nights, the second with half as many rows more, which is beyond what its spec lets pass."""
    blocks = {"compute": {"price_per_hour": 10.0}, "report": {"fail": {"rows_change": 0.1}}}
    story = Story(tmp_path, bundle_directory, blocks=blocks)
    for night, name, num_rows in ((NIGHT, "a", 40), (NEXT_NIGHT, "b", 20)):
        story.put(name, num_rows, num_rows, bad=name == "b")
        run = story.prepare(night)
        finish(run, f"{night}-1")
        write_report(run.ledger, run.spec.report)
    return story


def nights_of(story: Story, most: int = 90) -> TableNights:
    return read_table_nights(str(story.table), STORAGE, most)


def ledger_of(table: Path, night: str = NIGHT) -> Ledger:
    return Ledger(str(table), night, FINGERPRINT, STORAGE)


def test_nights_are_what_their_manifests_and_reports_say(story: Story) -> None:
    found = nights_of(story)
    first, second = found.nights
    assert (first.run_date, first.counts["num_rows"], first.level) == (NIGHT, 40, "ok")
    assert (second.counts["num_rows"], second.share("num_quarantined_rows"), second.level) == (60, 1 / 60, "fail")
    assert second.findings == ("rows_change is 0.5, fail limit 0.1",)
    assert (first.num_runs, first.is_new_model, first.cost) == (1, False, first.counts["usage"]["cost"])
    assert (found.num_nights, found.failures, found.unfinished) == (2, (), ())


def test_the_page_has_a_row_for_each_night_the_newest_first(story: Story) -> None:
    page = Page(render_nights(nights_of(story), True))
    newest, oldest = page.table("night")
    assert (newest["night"], newest["rows"], newest["quarantined"]) == (NEXT_NIGHT, "60", "1.67%")
    assert newest["limits"] == "failrows_change is 0.5, fail limit 0.1"
    assert (oldest["night"], oldest["limits"], oldest["runs"]) == (NIGHT, "ok", "1")
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert links == [f"run_date%3D{night}.html" for night in (NEXT_NIGHT, NIGHT)]
    assert page.figure("nights beyond report.fail") == "1"
    columns = [attributes["class"] for name, attributes in page.elements if name == "rect"]
    assert columns[:2] == ["column now", "column fail"]


def test_away_from_the_reports_nothing_is_linked(story: Story) -> None:
    page = Page(render_nights(nights_of(story), False))
    assert {name for name, _ in page.elements} & {"a", "script", "link", "img"} == set()


def test_all_runs_of_a_night_are_counted_and_another_model_is_said(story: Story) -> None:
    (before, _) = nights_of(story).nights
    again = story.prepare(NIGHT, rescore=True)
    finish(again, "again")
    story.blocks["corpus"] = {"keep": ["id"], "empty_text": "score"}
    story.night(THIRD)
    first, second, third = nights_of(story).nights
    assert first.num_runs == 2
    assert before.elapsed_s is not None
    assert first.elapsed_s == pytest.approx(before.elapsed_s + first.counts["elapsed_s"])
    assert (second.is_new_model, third.is_new_model, third.level) == (False, True, "")
    assert "no report" in Page(render_nights(nights_of(story), True)).text


def test_only_the_newest_nights_are_read(story: Story) -> None:
    found = nights_of(story, most=1)
    assert [night.run_date for night in found.nights] == [NEXT_NIGHT]
    assert found.num_nights == 2


def test_a_night_that_was_begun_and_not_published_is_told(story: Story) -> None:
    story.blocks["corpus"] = {"keep": ["id"], "empty_text": "score"}
    run = story.prepare(THIRD)
    begin(run)
    scorer_for(run).process(run.plan.pending[0])
    assert nights_of(story).unfinished == (THIRD,)
    assert f"Begun and not published: {THIRD}" in Page(render_nights(nights_of(story), True)).text


def test_a_failure_is_written_down_and_raised(story: Story) -> None:
    failure = TooManyBadRowsError("9 of 60 rows <cannot> be scored", "mend the corpus")
    with (
        pytest.raises(TooManyBadRowsError, match="9 of 60"),
        noting_failures(ledger_of(story.table), "run-9", time.monotonic() - 5),
    ):
        raise failure
    (found,) = nights_of(story).failures
    assert (found.run_date, found.run_id, found.kind, found.exit_code) == (NIGHT, "run-9", "TooManyBadRowsError", 3)
    assert found.message == str(failure)
    assert 5 <= found.elapsed_s < 60
    row = Page(render_nights(nights_of(story), True)).tables[1][1]
    assert (row[0], row[2]) == (NIGHT, "3")
    assert "9 of 60 rows <cannot> be scored" in row[4]
    assert story.verify(NIGHT) == ()


def test_a_failure_after_the_commit_is_told_from_one_before(story: Story) -> None:
    versions = read_versions(str(story.table), STORAGE)
    (own,) = {version.run_id for version in versions if version.run_date == NIGHT}
    for run_id in (own, "another"):
        with (
            pytest.raises(TransientStorageError, match="gone"),
            noting_failures(ledger_of(story.table), run_id, time.monotonic()),
        ):
            raise TransientStorageError("the store is gone", "wait")
    rows = Page(render_nights(nights_of(story), True)).tables[1][1:]
    assert sorted((row[5] == own, row[4].split(":")[0]) for row in rows) == [
        (False, "TransientStorageError"),
        (True, "TransientStorageError, after its commit"),
    ]


def test_a_run_killed_between_commit_and_manifest_leaves_no_unfinished_night(story: Story) -> None:
    story.blocks["corpus"] = {"keep": ["id"], "empty_text": "score"}
    story.night(THIRD)
    for manifest in (story.table / "_manifests" / f"run_date={THIRD}").iterdir():
        manifest.unlink()
    assert nights_of(story).unfinished == ()


def test_a_bug_is_written_down_without_its_text(story: Story) -> None:
    with (
        pytest.raises(ValueError, match="key=secret"),
        noting_failures(ledger_of(story.table), "run-8", time.monotonic()),
    ):
        raise ValueError("key=secret")
    (found,) = nights_of(story).failures
    assert (found.kind, found.exit_code) == ("ValueError", 1)
    assert found.message.startswith("not foreseen")


def test_a_run_that_is_told_to_stop_is_written_down_as_that(story: Story) -> None:
    stopped = Stopped(InterruptedRunError("stopped by SIGTERM", "again"))
    with (
        pytest.raises(Stopped, match="stopped by SIGTERM"),
        noting_failures(ledger_of(story.table), "run-8", time.monotonic()),
    ):
        raise stopped
    (found,) = nights_of(story).failures
    assert (found.kind, found.exit_code) == ("InterruptedRunError", 75)
    assert found.message == "stopped by SIGTERM\n  -> again"


@pytest.mark.parametrize("error", [NightTakenError("another run is at work"), FilesSkippedError("2 files")])
def test_what_is_no_failure_is_not_written_down(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), noting_failures(ledger_of(tmp_path), "run-9", time.monotonic()):
        raise error
    assert read_failures(str(tmp_path), STORAGE) == []


def test_a_store_that_is_gone_changes_nothing_about_the_error(tmp_path: Path) -> None:
    (tmp_path / "_reports").write_text("no folder")
    with (
        pytest.raises(InterruptedRunError, match="stopped by SIGTERM"),
        noting_failures(ledger_of(tmp_path), "run-9", time.monotonic()),
    ):
        raise InterruptedRunError("stopped by SIGTERM", "again")
    assert (tmp_path / "_reports").read_text() == "no folder"


def test_the_command_writes_the_page_beside_the_reports_or_where_it_is_told(story: Story, tmp_path: Path) -> None:
    beside = run_command("history", str(story.table))
    assert beside.exit_code == 0, beside.stderr
    assert beside.stdout == f"history: {story.table}/_reports/nights.html\n  nights: 2; runs that failed: 0\n"
    told = run_command("history", str(story.table), "--output", str(tmp_path / "page.html"), "--nights", "1")
    assert told.stdout == f"history: {tmp_path}/page.html\n  nights: 1; runs that failed: 0\n"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert_refused(run_command("history", str(tmp_path / "nowhere")), "nowhere")


def test_without_a_table_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no Delta table"):
        read_table_nights(str(tmp_path), STORAGE, 5)
