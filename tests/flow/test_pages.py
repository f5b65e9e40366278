"""The pages of a table in a real browser: nothing fetched, nothing wrong, nothing beyond the edge, readable colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.saved import write_report
from tests.flow.browser import Browser, Look, find_browser
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story, finish
from tests.unit.jobs.command_line import run_command
from tests.unit.output.scored import NEXT_NIGHT, NIGHT

PATH = find_browser()
LOOKS = [Look(1280), Look(375), Look(1280, is_dark=True), Look(375, is_dark=True)]
BEYOND = """[...document.querySelectorAll('h1,h2,h3,p,.facts,figure,svg,.scroll,pre')]
    .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(each => each.outerHTML.slice(0, 80))"""
CUT = """[...document.querySelectorAll('svg text')].filter(each => {
    const own = each.getBoundingClientRect(), all = each.ownerSVGElement.getBoundingClientRect();
    return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1;
}).map(each => each.textContent)"""
COLOURS = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
WIDE = """[...document.querySelectorAll('.scroll,pre')].filter(each => each.scrollWidth > each.clientWidth + 1)
    .map(each => each.textContent.slice(0, 80))"""

pytestmark = pytest.mark.skipif(PATH is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PATH is not None
    with Browser(PATH) as running:
        yield running


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two nights' pages, and of the page of both: a label that is long, a bad row, a price."""
    root = tmp_path_factory.mktemp("pages")
    labels = ("no", "a label that is much longer than what fits beside a bar", "yes")
    make_bundle(root / "bundle", labels)
    blocks: dict[str, Any] = {"compute": {"price_per_hour": 10.0}, "report": {"fail": {"rows_change": 0.1}}}
    story = Story(root, root / "bundle", blocks=blocks)
    for night, name in ((NIGHT, "a"), (NEXT_NIGHT, "b")):
        story.put(name, 60, ord(name), bad=True)
        run = story.prepare(night)
        finish(run, f"{night}-1")
        write_report(run.ledger, run.spec.report)
    assert run_command("history", str(story.table)).exit_code == 0
    return story.table / "_reports"


@pytest.fixture(scope="module", params=[f"run_date={NIGHT}.html", f"run_date={NEXT_NIGHT}.html", "nights.html"])
def page(request: pytest.FixtureRequest, reports: Path) -> Path:
    return reports / str(request.param)


def wrong(browser: Browser) -> list[dict[str, Any]]:
    """What the browser complains of, and what it asked for beside the page."""
    asked = [each for each in browser.events if each.get("method") == "Network.requestWillBeSent"]
    bad = [each for each in browser.events if each.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    return [*asked[1:], *bad]


def brightness(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_a_page_is_whole_on_wide_and_narrow_screens_light_and_dark(browser: Browser, page: Path, look: Look) -> None:
    browser.open(page, look)
    assert wrong(browser) == []
    assert browser.run("document.documentElement.scrollWidth") == look.width
    assert browser.run(BEYOND) == []
    assert browser.run(CUT) == []
    ink, paper = (brightness(colour) for colour in browser.run(COLOURS))
    assert (paper < ink) == look.is_dark
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7


def test_a_page_on_paper_is_light_and_cuts_nothing_off(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page, Look(718, is_dark=True, is_print=True))
    assert brightness(browser.run(COLOURS)[0]) < 0.1
    assert browser.run("document.documentElement.scrollWidth") <= 718
    assert browser.run(WIDE) == []
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_night_s_name_leads_to_its_page(browser: Browser, reports: Path) -> None:
    browser.open(reports / "nights.html", Look(1280))
    browser.follow("a")
    assert browser.run("document.querySelector('h1').textContent") == f"Night {NEXT_NIGHT}"
