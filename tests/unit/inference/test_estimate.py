"""What `bertmill plan` says of work before it is done, beside the work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.config import PoolOptions
from pipeline.inference import pace
from pipeline.inference.estimate import Estimate, estimate_work
from pipeline.inference.pace import Pace
from pipeline.inference.publish import publish_run
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import score_all

POOL = PoolOptions(1, 1, 0.0)
NIGHTS = ["2026-11-23", "2026-11-24"]


def a_corpus(root: Path, bundle: Path) -> Story:
    story = Story(root, bundle, blocks={"compute": {"price_per_hour": 3600.0}})
    for index, (name, num_rows) in enumerate({"a": 300, "b": 20, "c": 90}.items()):
        story.put(name, num_rows, index, bad=True)
    return story


def test_the_estimate_is_near_what_then_happens(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_PROBE_S", 0.1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    found = estimate_work(run, POOL)
    records = score_all(run)
    assert not (tmp_path / "table").exists() or not list((tmp_path / "table").glob("run_date=*/probe*"))
    assert found.num_rows == sum(record.num_rows for record in records)
    assert found.num_tokens == pytest.approx(sum(record.num_tokens for record in records), rel=0.25)
    assert found.seconds is not None
    assert found.seconds > pace.RAY_START_S
    assert found.cost == pytest.approx(found.seconds)
    assert "a probe of" in found.basis


def test_an_earlier_night_of_the_same_kind_tells_the_pace(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MIN_TOKENS", 1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    report = publish_run(run, score_all(run), "run-1", time.monotonic() - 50, POOL)
    found = estimate_work(story.prepare(NIGHTS[1]), POOL)
    usage = report.usage
    assert "night 2026-11-23" in found.basis
    expected_s = usage.before_s + usage.after_s + found.num_tokens / (usage.num_tokens / usage.busy_s)
    assert found.seconds == pytest.approx(expected_s, rel=0.01)


def test_a_night_on_other_workers_tells_nothing_of_these(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MIN_TOKENS", 1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    publish_run(run, score_all(run), "run-1", time.monotonic(), PoolOptions(2, 8, 1.0))
    following = story.prepare(NIGHTS[1])
    assert pace.pace_of_nights(following, POOL) is None
    of_a_cluster = pace.pace_of_nights(following, None)
    assert of_a_cluster is not None
    assert of_a_cluster.num_workers == 2


def test_on_a_cluster_without_an_earlier_night_the_time_is_unknown(bundle_directory: Path, tmp_path: Path) -> None:
    found = estimate_work(a_corpus(tmp_path, bundle_directory).prepare(NIGHTS[0]), None)
    assert (found.seconds, found.cost) == (None, None)
    assert "time unknown, by no earlier night" in "\n".join(found.describe())


def test_more_workers_are_faster_until_one_shard_is_what_is_waited_for() -> None:
    alone, four, many = (Pace(100.0, 10.0, num, "") for num in (1, 4, 64))
    assert [item.seconds(4_000, 0.25) for item in (alone, four, many)] == [50.0, 20.0, 20.0]


def test_an_estimate_reads_as_lines() -> None:
    lines = Estimate(1_000_000, 2.5e7, 2_048, 3_600.0, "a guess", 2.5).describe()
    assert lines == [
        "estimate: 1,000,000 rows, about 25,000,000 tokens (from 2,048 sampled rows)",
        "  about 3,600 s from command to commit, by a guess",
        "  cost about 2.5, 2.5 a million rows",
    ]
