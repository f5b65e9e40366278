"""Nights whose columns differ: a comparison night with another model beside, and columns kept from a night on."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.config import parse_spec
from pipeline.errors import CorpusError, OutputTakenError, SpecError
from pipeline.inference.estimate import explain_plan
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.verify import SampleCheck, rescore_sample
from pipeline.output.compact import compact_night
from pipeline.output.compare import compare_beside, compare_nights
from pipeline.report.build import build_report
from pipeline.report.limits import ReportConfig
from pipeline.storage import Storage
from tests.unit.inference.bundles import write
from tests.unit.inference.nights import Story

STORAGE = Storage()
FIRST, SECOND, THIRD = "2026-11-23", "2026-11-24", "2026-11-25"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    write(tmp_path / "old", "text-classification")
    write(tmp_path / "new", "text-classification", encoder_seed=9)
    story = Story(tmp_path, tmp_path / "old")
    story.put("a", 30, seed=1, bad=True)
    story.put("b", 20, seed=2)
    return story


def columns_of(story: Story, night: str, *names: str) -> list[tuple[object, ...]]:
    table = DeltaTable(story.table).to_pyarrow_table(partitions=[("run_date", "=", night)])
    rows = sorted(table.to_pylist(), key=lambda row: (row["source_file"], row["source_row"]))
    return [tuple(row[name] for name in names) for row in rows]


def test_a_new_model_scores_beside_the_old_one_for_a_night(story: Story) -> None:
    story.night(FIRST)
    story.blocks = {"beside": {"candidate": str(story.root / "new")}}
    lines = "\n".join(explain_plan(story.prepare(SECOND)))
    assert "model: candidate: " in lines
    assert "new columns of the table, null in nights before: candidate_label, candidate_score" in lines
    report = story.night(SECOND)
    assert ", candidate=" in report.model_version
    story.blocks = {}
    story.night(THIRD)

    own = ("label", "score", "model_version")
    assert columns_of(story, FIRST, *own) == columns_of(story, SECOND, *own) == columns_of(story, THIRD, *own)
    assert {value for row in columns_of(story, FIRST, "candidate_label", "candidate_embedding") for value in row} == {
        None
    }
    assert {value for row in columns_of(story, THIRD, "candidate_num_tokens") for value in row} == {None}

    alone = Story(story.root / "alone", story.root / "new")
    (story.root / "alone").mkdir()
    for name, rows, seed in (("a", 30, 1), ("b", 20, 2)):
        alone.put(name, rows, seed, bad=name == "a")
    alone.night(SECOND)
    beside = columns_of(story, SECOND, *(f"candidate_{name}" for name in own))
    for (label, score, version), (wanted, wanted_score, wanted_version) in zip(
        beside, columns_of(alone, SECOND, *own), strict=True
    ):
        assert (label, version) == (wanted, wanted_version)
        assert score == pytest.approx(wanted_score, abs=1e-6)


def test_a_comparison_night_and_its_neighbours_are_verified_compared_and_reported(story: Story) -> None:
    story.night(FIRST)
    story.blocks = {"beside": {"candidate": str(story.root / "new")}}
    story.night(SECOND)
    for night in (FIRST, SECOND):
        assert story.verify(night) == ()
        compact_night(str(story.table), night, 2**20, STORAGE)
        assert story.verify(night) == ()
    checks = [SampleCheck(str(story.bundle), 8), SampleCheck(str(story.root / "new"), 8, bundle_name="candidate")]
    for check in checks:
        assert rescore_sample(str(story.table), SECOND, check, STORAGE).problems == ()

    nights = compare_nights(str(story.table), FIRST, SECOND, STORAGE)
    assert (nights.num_rows_both, nights.num_rows_unchanged) == (49, 49)
    assert [label.column for label in nights.labels] == ["label"]
    models = compare_beside(str(story.table), SECOND, "candidate", STORAGE)
    pairs = columns_of(story, SECOND, "label", "candidate_label")
    flips = sum(one != other for one, other in pairs)
    assert 0 < flips == models.labels[0].num_changed_rows
    assert (models.num_rows_both, models.num_rows_only_first, models.second) == (49, 0, f"{SECOND} by candidate")
    assert {shift.column for shift in models.numbers} == {"score", "class_scores"}
    with pytest.raises(CorpusError, match=r"night 2026-11-23 has no two columns NAME and candidate_NAME"):
        compare_beside(str(story.table), FIRST, "candidate", STORAGE)
    report = build_report(str(story.table), SECOND, ReportConfig(), STORAGE)
    assert report.movement is not None
    assert report.movement.num_rows == 49


def test_columns_may_be_kept_from_a_night_on_and_not_be_left_out_again(story: Story) -> None:
    story.night(FIRST)
    story.blocks = {"corpus": {"keep": ["id", "text"], "shard_rows": 20}}
    story.night(SECOND)
    assert {text for (text,) in columns_of(story, FIRST, "text")} == {None}
    assert all(text for (text,) in columns_of(story, SECOND, "text"))
    assert (story.verify(FIRST), story.verify(SECOND)) == ((), ())
    assert compare_nights(str(story.table), FIRST, SECOND, STORAGE).num_rows_unchanged == 49
    story.blocks = {}
    with pytest.raises(OutputTakenError, match="only there: text"):
        story.prepare(THIRD)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beside": {"": "/b2"}}, "'' cannot prefix columns"),
        ({"beside": {"a b": "/b2"}}, "'a b' cannot prefix columns"),
        ({"bundle": {"x": "/b"}, "beside": {"x": "/b2"}}, "'x' is both in bundle and in beside"),
    ],
)
def test_bundles_beside_have_names_of_their_own(fields: dict[str, object], message: str) -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o"}}
    with pytest.raises(SpecError, match=message):
        parse_spec({**raw, **fields}, ScoreSpec, "spec.yaml")
