"""A trace of a shard: what stands in it, and that nothing depends on it."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TransientStorageError
from pipeline.inference import trace
from pipeline.inference.job import TraceTarget
from pipeline.inference.prepare import PreparedRun, make_job
from pipeline.inference.worker import ShardScorer
from pipeline.output.ledger import DoneRecord, records_from
from pipeline.storage import Storage
from tests.tiny import write_corpus
from tests.unit.inference.scoring import prepared


@pytest.fixture
def run(bundle_directory: Path, tmp_path: Path) -> PreparedRun:
    write_corpus(tmp_path / "corpus", num_files=2, rows_per_file=60)
    return prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table", corpus={"shard_rows": 60})


def tracing_scorer(run: PreparedRun, target: TraceTarget) -> ShardScorer:
    return replace(make_job(run, 1, "run-1"), trace=target).build()


def score(scorer: ShardScorer, run: PreparedRun) -> list[DoneRecord]:
    return [record for shard in run.plan.pending for record in records_from(scorer.process(shard))]


def events_of(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(gzip.decompress(path.read_bytes()))["traceEvents"])


def test_a_trace_holds_the_stages_and_the_models_operators(run: PreparedRun, tmp_path: Path) -> None:
    target = TraceTarget(run.plan.pending[1].name, str(tmp_path / "trace.json.gz"))
    records = score(tracing_scorer(run, target), run)
    assert sum(record.num_rows for record in records) == run.plan.num_rows
    spans = [event for event in events_of(tmp_path / "trace.json.gz") if event.get("ph") == "X"]
    names = [event["name"] for event in spans]
    assert [name for name in names if name in ("read", "tokenize", "model", "write")].count("model") == 1, "one shard"
    assert {"read", "tokenize", "model", "write", "aten::layer_norm"} <= set(names)
    model = next(event for event in spans if event["name"] == "model")
    inside = [event for event in spans if event["name"] == "aten::layer_norm"]
    assert all(model["ts"] <= event["ts"] <= model["ts"] + model["dur"] for event in inside)


def test_only_the_first_batches_are_traced(run: PreparedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for most in (1, 3):
        monkeypatch.setattr(trace, "MAX_BATCHES", most)
        file = tmp_path / f"{most}.json.gz"
        scorer = tracing_scorer(run, TraceTarget(run.plan.pending[0].name, str(file)))
        (model,) = (model for one_pass in scorer._predictor._passes for _, model in one_pass.models)
        monkeypatch.setattr(model, "_budget", replace(model._budget, tokens=200))
        score(scorer, run)
        names = [event.get("name") for event in events_of(file)]
        assert "write" not in names, "the profiler had stopped"
        sizes.append(names.count("aten::layer_norm"))
    assert sizes[1] == 3 * sizes[0] > 0


def test_a_trace_that_cannot_be_written_changes_nothing(
    run: PreparedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object) -> None:
        raise TransientStorageError("the store refuses", "ask its owner")

    monkeypatch.setattr(Storage, "upload", refuse)
    target = TraceTarget(run.plan.pending[0].name, str(tmp_path / "trace.json.gz"))
    records = score(tracing_scorer(run, target), run)
    assert sum(record.num_rows for record in records) == run.plan.num_rows
    assert not (tmp_path / "trace.json.gz").exists()
