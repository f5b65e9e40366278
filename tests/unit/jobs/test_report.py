"""`bertmill report`, and what `score` and `nightly` make of a report's verdict."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.published import finish_published
from pipeline.errors import DriftError
from pipeline.report.saved import write_report
from pipeline.storage import Storage
from tests.unit.inference.nights import Story, finish
from tests.unit.jobs.command_line import assert_refused, run_command
from tests.unit.output.scored import NEXT_NIGHT, NIGHT


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    """Two nights, the second with half as many rows more; its spec lets a tenth pass."""
    story = Story(tmp_path, bundle_directory, blocks={"report": {"fail": {"rows_change": 0.1}}})
    story.put("a", 40, 0)
    story.night(NIGHT)
    story.put("b", 20, 1)
    return story


def test_the_command_writes_a_page_and_ends_with_8(story: Story, tmp_path: Path) -> None:
    story.night(NEXT_NIGHT)
    page = tmp_path / "page.html"
    found = run_command("report", str(story.table), "--date", NEXT_NIGHT, "--output", str(page))
    assert found.exit_code == 8
    assert "rows_change is 0.5, fail limit 0.1" in found.stderr
    assert page.read_text().startswith("<!doctype html>")
    first = run_command("report", str(story.table), "--date", NIGHT)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.strip() == f"report: {story.table}/_reports/run_date={NIGHT}.html"


@pytest.mark.parametrize("command", [("report", "--date", NIGHT), ("history",)], ids=lambda words: words[0])
def test_a_page_goes_where_its_folder_is_not_there_yet(story: Story, tmp_path: Path, command: tuple[str, ...]) -> None:
    job, *options = command
    for place in (str(tmp_path / "new" / "page.html"), f"memory:///{tmp_path.name}/new/page.html"):
        found = run_command(job, str(story.table), *options, "--output", place)
        assert found.exit_code == 0, found.stderr
        content = Storage().read_bytes(place)
        assert content is not None
        assert content.startswith(b"<!doctype html>")
    for place, why in ((tmp_path, "Is a directory"), (story.corpus / "a.parquet" / "page.html", "Not a directory")):
        refused = run_command(job, str(story.table), *options, "--output", str(place))
        assert_refused(refused, f"{place} cannot be written", why)


def test_a_night_that_failed_its_limits_says_so_each_time(story: Story) -> None:
    run = story.prepare(NEXT_NIGHT)
    finish(run)
    write_report(run.ledger, run.spec.report)
    again = story.prepare(NEXT_NIGHT)
    assert again.is_published
    with pytest.raises(DriftError, match=r"rows_change is 0\.5"):
        finish_published(again, time.monotonic())
