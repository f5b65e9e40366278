"""A small bundle answers first, and the other one the rows of which it is not sure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable

from pipeline.errors import ModelError, SpecError
from pipeline.inference import pace
from pipeline.inference.estimate import estimate_tokens, explain_plan, sample_spots
from pipeline.inference.verify import SampleCheck, rescore_sample
from pipeline.registry.reference import REGISTRY_VARIABLE
from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.rules.sources import ROOT
from tests.tiny import make_bundle
from tests.unit.inference.bundles import write
from tests.unit.inference.nights import Story

STORAGE = Storage()
NIGHT, NEXT, THIRD = "2026-11-23", "2026-11-24", "2026-11-25"
ANSWER = ("label", "score", "class_scores", "model_version", "num_tokens")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Two bundles that disagree, and a corpus with a row that cannot be scored."""
    write(tmp_path / "large", "text-classification")
    write(tmp_path / "small", "text-classification", encoder_seed=9)
    story = Story(tmp_path, tmp_path / "large", output={"embedding": False})
    story.put("a", 60, seed=1, bad=True)
    story.put("b", 40, seed=2)
    return story


def cascade(story: Story, min_score: float) -> dict[str, Any]:
    return {"cascade": {"first": str(story.root / "small"), "min_score": min_score}}


def answers(story: Story, night: str) -> list[tuple[Any, ...]]:
    rows = DeltaTable(story.table).to_pyarrow_table(partitions=[("run_date", "=", night)]).to_pylist()
    rows.sort(key=lambda row: (row["source_file"], row["source_row"]))
    return [tuple(row[name] for name in ANSWER) for row in rows]


def alone(story: Story, name: str, night: str) -> list[tuple[Any, ...]]:
    """What one of the bundles says of every row."""
    output = {"uri": str(story.root / f"{name}-alone"), "embedding": False}
    Story(story.root, story.root / name, output=output).night(night)
    table = DeltaTable(story.root / f"{name}-alone").to_pyarrow_table().to_pylist()
    table.sort(key=lambda row: (row["source_file"], row["source_row"]))
    return [tuple(row[name] for name in ANSWER) for row in table]


def about(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row's answer, but for the last digits, which other batches round otherwise."""
    label, score, class_scores, *rest = row
    return label, pytest.approx(score, abs=1e-5), pytest.approx(class_scores, abs=1e-5), *rest


def test_each_row_has_the_answer_of_the_bundle_that_was_sure_of_it(story: Story) -> None:
    small, large = alone(story, "small", NIGHT), alone(story, "large", NIGHT)
    scores = sorted(row[1] for row in small)
    between = (scores[49] + scores[50]) / 2
    story.blocks = cascade(story, between)
    report = story.night(NIGHT)
    found = answers(story, NIGHT)
    expected = [one if one[1] >= between else other for one, other in zip(small, large, strict=True)]
    assert found == [about(row) for row in expected]
    assert {row[3] for row in found} == {small[0][3], large[0][3]}
    assert 40 < sum(row[3] == small[0][3] for row in found) < 60
    assert any(one[0] != other[0] for one, other in zip(small, large, strict=True)), "the bundles must disagree"
    assert report.model_version == f"{large[0][3]}, first={small[0][3]}"
    assert (report.num_scored_rows, report.num_quarantined_rows) == (99, 1)
    assert report.num_tokens == sum(row[4] for row in small), "tokens are counted once"
    assert story.verify(NIGHT) == ()


@pytest.mark.parametrize(("min_score", "answers_all"), [(0.0, "small"), (1.0, "large")])
def test_at_the_ends_one_bundle_answers_all(story: Story, min_score: float, answers_all: str) -> None:
    story.blocks = cascade(story, min_score)
    story.night(NIGHT)
    assert answers(story, NIGHT) == [about(row) for row in alone(story, answers_all, NIGHT)]


def test_another_score_or_first_bundle_is_new_work(story: Story) -> None:
    story.blocks = cascade(story, 0.5)
    story.night(NIGHT)
    assert story.prepare(NIGHT).is_published
    for blocks in (cascade(story, 0.6), {}):
        story.blocks = blocks
        assert story.prepare(NIGHT).plan.num_pending_rows == 100
    write(story.root / "small", "text-classification", encoder_seed=11)
    story.blocks = cascade(story, 0.5)
    assert story.prepare(NIGHT).plan.num_pending_rows == 100


def test_equal_texts_and_reuse_give_the_same(story: Story) -> None:
    story.blocks = cascade(story, 0.5)
    story.night(NIGHT)
    story.blocks = {**cascade(story, 0.5), "reuse": "text-hash"}
    story.night(NEXT)
    story.put("c", 60, seed=1)
    assert story.night(THIRD).num_reused_rows >= 99
    assert answers(story, NEXT) == [about(row) for row in answers(story, NIGHT)]


def test_the_plan_names_both_and_counts_as_the_night_does(story: Story) -> None:
    story.blocks = cascade(story, 0.5)
    run = story.prepare(NIGHT)
    lines = "\n".join(explain_plan(run))
    assert f"model: first: {story.root}/small (model_version " in lines
    num_tokens = estimate_tokens(run, sample_spots(run)).num_tokens
    assert num_tokens == pytest.approx(story.night(NIGHT).num_tokens, rel=0.05)


def test_a_sample_is_compared_with_the_bundle_that_answered(story: Story) -> None:
    scores = sorted(row[1] for row in alone(story, "small", NIGHT))
    story.blocks = cascade(story, scores[50])
    story.night(NIGHT)
    for name in ("small", "large"):
        found = rescore_sample(str(story.table), NIGHT, SampleCheck(str(story.root / name), 99), STORAGE)
        assert found.problems == ()
        assert 40 < found.num_rows < 60  # all that it answered
    for manifest in (story.table / "_manifests" / f"run_date={NIGHT}").iterdir():
        manifest.unlink()
    with pytest.raises(ModelError, match="the night was scored with"):  # by two models, and nothing says that it may be
        rescore_sample(str(story.table), NIGHT, SampleCheck(str(story.root / "large"), 99), STORAGE)
    write(story.root / "third", "text-classification", encoder_seed=5)
    with pytest.raises(ModelError, match="the night was scored with"):
        rescore_sample(str(story.table), NIGHT, SampleCheck(str(story.root / "third"), 9), STORAGE)


def test_a_sample_is_of_rows_that_the_bundle_answered(story: Story) -> None:
    scores = sorted(row[1] for row in alone(story, "small", NIGHT))
    for num_answered, found_rows in ((1, 1), (40, 3)):
        story.blocks = cascade(story, scores[num_answered])
        story.night(NIGHT)
        found = rescore_sample(str(story.table), NIGHT, SampleCheck(str(story.root / "large"), 3), STORAGE)
        assert (found.num_rows, found.problems) == (found_rows, ())
    story.blocks = cascade(story, 0.0)
    story.night(NIGHT)
    with pytest.raises(ModelError, match=f"the cascade's other bundle answered every row of {NIGHT}"):
        rescore_sample(str(story.table), NIGHT, SampleCheck(str(story.root / "large"), 3), STORAGE)


def test_the_guide_s_query_says_what_a_cascade_would_do(story: Story) -> None:
    """Of a comparison night, against the cascade itself."""
    story.blocks = {"beside": {"small": str(story.root / "small")}}
    story.night(NIGHT)
    guide = (ROOT / "docs" / "guides" / "models.md").read_text(encoding="utf-8")
    (query,) = re.findall(r'duckdb\.sql\("""(.*?)"""\)', guide, re.DOTALL)
    night = DeltaTable(story.table).to_pyarrow_dataset()  # DuckDB finds it by this name
    found = {float(row[0]): row[1:] for row in duckdb.sql(query).fetchall()}
    assert night.count_rows() == 99
    large, small = alone(story, "large", NIGHT), alone(story, "small", NIGHT)
    for min_score, (kept, same_where_kept, unchanged) in found.items():
        own = [(one[0], other[0]) for one, other in zip(large, small, strict=True) if other[1] >= min_score]
        assert kept == pytest.approx(len(own) / 99)
        assert same_where_kept == (pytest.approx(sum(a == b for a, b in own) / len(own)) if own else None)
        assert unchanged == pytest.approx(1 - sum(a != b for a, b in own) / 99)
    assert 0 < found[0.5][0] < 1 or found[0.5][2] < 1, "the bundles must disagree"


def test_a_registered_first_bundle_is_pinned(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(str(story.root / "registry"), STORAGE)
    monkeypatch.setenv(REGISTRY_VARIABLE, registry.uri)
    registry.publish(str(story.root / "small"), "small")
    story.blocks = {"cascade": {"first": "models://small@1", "min_score": 0.5}}
    run = story.prepare(NIGHT)
    assert run.models["first"].version == "small@1"
    assert run.spec.cascade is not None
    assert run.spec.cascade.first == run.models["first"].uri
    story.night(NIGHT)
    assert len({row[3] for row in answers(story, NIGHT)}) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beside": {"other": "large"}}, "a cascade is of two bundles"),
        ({"bundle": {"a": "large", "b": "large"}}, "a cascade is of two bundles"),
    ],
)
def test_what_a_cascade_cannot_be_is_told(story: Story, changes: dict[str, Any], words: str) -> None:
    story.blocks = {**cascade(story, 0.5), **changes}
    with pytest.raises(ValueError, match=words):
        story.prepare(NIGHT)


def test_a_cascade_writes_no_embeddings(story: Story) -> None:
    story.blocks, story.output = cascade(story, 0.5), {"embedding": True}
    with pytest.raises(ValueError, match="embeddings of a cascade would be of two encoders"):
        story.prepare(NIGHT)


def test_bundles_that_answer_other_questions_are_refused(story: Story) -> None:
    story.blocks = cascade(story, 0.5)
    make_bundle(story.root / "small", ("no", "yes"))
    with pytest.raises(
        SpecError, match=r"cascade\.first: text-classification with the labels no, yes; expected as bundle"
    ):
        story.prepare(NIGHT)
    write(story.root / "small", "embedding")
    with pytest.raises(SpecError, match=r"cascade\.first: embedding; expected as bundle: text-classification$"):
        story.prepare(NIGHT)
    story.bundle = story.root / "small"
    with pytest.raises(SpecError, match="embedding has no score that says how sure it is"):
        story.prepare(NIGHT)


def test_bundles_that_read_other_columns_are_refused(story: Story) -> None:
    story.blocks = cascade(story, 0.5)
    write(story.root / "small", "text-classification", inputs={"text": "title"})
    with pytest.raises(SpecError, match=r"cascade\.first: reads title; expected what `bundle` reads, text; or set"):
        story.prepare(NIGHT)
    story.blocks["corpus"] = {"inputs": {"text": "text"}}
    assert story.prepare(NIGHT).plan.num_pending_rows == 100


def test_a_night_of_another_min_score_says_nothing_of_the_pace(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_MIN_TOKENS", 1)
    story.blocks = cascade(story, 0.5)
    story.night(NIGHT)
    assert pace.pace_of_nights(story.prepare(NEXT), None) is not None
    story.blocks = cascade(story, 0.6)
    assert pace.pace_of_nights(story.prepare(NEXT), None) is None
