"""A table of nights stays one, and a snapshot too."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import OutputTakenError
from pipeline.output.table import Night, Published, publish_night
from pipeline.storage import Storage
from tests.unit.inference.nights import Story

D20, D21 = "2026-11-20", "2026-11-21"


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    """Two files, one with a row that cannot be scored."""
    story = Story(tmp_path, bundle_directory, {"mode": "nights"})
    story.put("a", 20, 1)
    story.put("b", 20, 2, bad=True)
    return story


@pytest.mark.parametrize("has_manifests", [True, False])
@pytest.mark.parametrize("modes", [("nights", "snapshot"), ("snapshot", "nights")])
def test_a_table_stays_what_it_was_begun_as(story: Story, modes: tuple[str, str], has_manifests: bool) -> None:
    story.output = {"mode": modes[0]}
    story.night(D20)
    if not has_manifests:
        shutil.rmtree(story.table / "_manifests")
    before = story.shown()
    story.output = {"mode": modes[1]}
    for rescore in (False, True):
        with pytest.raises(OutputTakenError, match=f"`output.mode` is {modes[1]}, and the table holds") as caught:
            story.prepare(D21, rescore)
        assert f"set `output: {{mode: {modes[0]}}}` as before" in caught.value.remedy
    assert story.shown() == before
    story.output = {"mode": modes[0]}
    story.night(D21)


def test_a_table_that_has_never_held_a_row_may_become_either(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.inference.publish.publish_night", _create_and_die)
        with pytest.raises(InterruptedError, match="killed"):
            story.night(D20)
    assert story.live() == set()
    story.output = {"mode": "snapshot"}
    assert story.night(D20).num_scored_rows == 39


def _create_and_die(uri: str, night: Night, storage: Storage) -> Published:
    if uri.endswith("_quarantine"):
        return publish_night(uri, night, storage)
    publish_night(uri, replace(night, files=()), storage)
    raise InterruptedError("killed")
