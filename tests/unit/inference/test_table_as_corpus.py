"""Nights over a corpus that is a Delta table, or a night of one of bertmill's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.inference.evaluate import prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from tests.tiny import make_rows
from tests.unit.inference.nights import Story, finish
from tests.unit.inference.scoring import prepared

D20, D21, D22 = (f"2026-11-{day}" for day in (20, 21, 22))


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    story = Story(tmp_path, bundle_directory, {"select": "new"})
    write_deltalake(story.corpus, make_rows(25))
    return story


def test_each_night_scores_what_the_table_has_become(story: Story) -> None:
    assert story.night(D20).num_rows == 25
    write_deltalake(story.corpus, make_rows(10, 1), mode="append")
    assert story.night(D21).num_rows == 10
    assert len(story.current()) == 35
    write_deltalake(story.corpus, make_rows(5, 2), mode="overwrite")
    assert story.night(D22).num_rows == 5
    assert len(story.current()) == 5
    assert story.prepare(D22).is_published


def test_a_night_that_was_scored_again_is_a_corpus_once(story: Story) -> None:
    story.blocks = {"corpus": {"keep": ["id", "text"]}}
    story.night(D20)
    finish(story.prepare(D20, rescore=True))
    (live,) = DeltaTable(story.table).file_uris()
    assert len(list(Path(live).parent.iterdir())) == 2
    again = prepared(story.bundle, story.table / f"run_date={D20}", story.root / "again")
    assert again.plan.num_rows == 25
    spec = {"bundle": str(story.bundle), "corpus": {"uri": str(story.table)}, "compute": {"device": "cpu"}}
    assert prepare_evaluation(EvaluateSpec.model_validate(spec)).num_rows == 25
