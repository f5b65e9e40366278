"""Where the time of a shard and of a run goes."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import PoolOptions
from pipeline.inference import stages
from pipeline.inference.publish import publish_run
from pipeline.inference.stages import StageClock
from pipeline.output.ledger import records_from
from pipeline.output.usage import WorkerFacts
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import NIGHT, prepared, score_all, scorer_for


class Hands:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1_000_000 + self.now_s


def test_what_no_stage_took_is_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr(stages, "time", hands)
    clock = StageClock()
    hands.now_s += 1
    for _ in range(2):
        with clock.timing("model"):
            hands.now_s += 3
    with suppress(ValueError), clock.timing("write"):
        hands.now_s += 5
        raise ValueError("the disk is full")
    found = clock.usage(WorkerFacts(device="a stone"))
    assert (found.stages.model_s, found.stages.write_s, found.stages.other_s) == (6, 5, 1)
    assert found.stages.busy_s == clock.elapsed_s == 12
    assert found.ended_s == 1_000_012
    assert found.worker.endswith(f":{os.getpid()}")
    assert found.facts.device == "a stone"
    assert found.spans == "model 1000 4000;model 4000 7000;write 7000 12000"


def test_a_shard_says_what_it_took(bundle_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    texts = ["the film was superb", "日本", None]
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), tmp_path / "corpus" / "a.parquet")
    run = prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table")
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    used, seconds = record.usage, record.usage.stages
    assert min(seconds.read_s, seconds.tokenize_s, seconds.model_s, seconds.write_s) > 0
    assert seconds.busy_s == pytest.approx(record.elapsed_s, abs=0.05)
    assert used.num_unknown_tokens == 2
    assert used.read_bytes > sum(len((text or "").encode()) for text in texts)
    assert used.peak_bytes > 2**24
    assert used.ended_s == pytest.approx(time.time(), abs=60)
    assert used.flops > 0
    assert used.facts.began_s < used.facts.ready_s < used.ended_s
    assert used.facts.peak_flops_per_s > 1e8
    assert "measured when the model was loaded, float32" in used.facts.peak_basis


def test_the_manifest_says_what_the_run_took(bundle_directory: Path, tmp_path: Path) -> None:
    story = Story(tmp_path, bundle_directory, blocks={"compute": {"price_per_hour": 36.0}})
    for index, name in enumerate("ab"):
        story.put(name, 30, index)
    run = story.prepare(NIGHT)
    started_s = time.monotonic() - 100
    records = score_all(run, "run-1")
    report = publish_run(run, records, "run-1", started_s, PoolOptions(3, 2, 0.5))
    folder = tmp_path / "table" / "_manifests" / f"run_date={NIGHT}"
    written = json.loads((folder / "run-1.json").read_text())["usage"]
    shards = pq.read_table(folder / "run-1.shards.parquet", partitioning=None)
    assert sorted(shards["shard"].to_pylist()) == sorted(record.shard for record in records)
    assert [written[name] for name in ("num_workers", "cpus_per_worker", "gpus_per_worker")] == [3, 2, 0.5]
    assert written["stages"]["model_s"] == pytest.approx(sum(shards["model_s"].to_pylist()), abs=1e-3)
    (worker,) = pq.read_table(folder / "run-1.workers.parquet", partitioning=None).to_pylist()
    assert (worker["num_shards"], worker["num_rows"]) == (len(records), 60)
    assert worker["model_s"] == written["stages"]["model_s"]
    assert worker["model_flop_utilisation"] == written["model_flop_utilisation"] > 0
    assert sum(written["idle"].values()) == pytest.approx(written["idle_s"], abs=0.1)
    assert written["idle"]["unused_s"] == pytest.approx(2 * report.elapsed_s, abs=0.1), "of three workers one scored"
    assert written["idle_s"] == pytest.approx(3 * report.elapsed_s - report.usage.busy_s, abs=0.1)
    assert written["cost"] == pytest.approx(3 * report.elapsed_s / 3600 * 36, rel=1e-3)
    assert written["cost_per_million_rows"] == pytest.approx(written["cost"] / 60 * 1e6)


def test_shards_that_another_run_finished_are_not_this_runs_time(bundle_directory: Path, tmp_path: Path) -> None:
    story = Story(tmp_path, bundle_directory)
    story.put("a", 30, 0)
    run = story.prepare(NIGHT)
    report = publish_run(run, score_all(run, "run-1"), "run-2", time.monotonic())
    assert (report.num_rows_this_run, report.usage.busy_s, report.usage.num_tokens) == (30, 0.0, 0)
