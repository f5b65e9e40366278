"""Scoring in this process, without Ray: a spec over a tiny bundle, prepared, scored shard by shard, published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.inference.prepare import PreparedRun, make_job, prepare_run
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.worker import ShardScorer
from pipeline.output.ledger import DoneRecord, records_from
from pipeline.storage import Storage

NIGHT = "2026-11-23"
STORAGE = Storage()


def score_spec(bundle: Path, corpus: Path, output: Path, /, **changes: Any) -> ScoreSpec:
    """fp32 on CPU; `corpus`, `output` and `compute` in `changes` are merged into their blocks."""
    blocks: dict[str, dict[str, Any]] = {
        "corpus": {"uri": str(corpus)},
        "output": {"uri": str(output)},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    merged = {name: {**block, **changes.pop(name, {})} for name, block in blocks.items()}
    return ScoreSpec.model_validate({"bundle": str(bundle), **merged, **changes})


def scorer_for(run: PreparedRun, run_id: str = "run-1") -> ShardScorer:
    """What a worker of this run builds."""
    return make_job(run, 1, run_id).build()


def score_all(run: PreparedRun, run_id: str = "run-1") -> list[DoneRecord]:
    """Every pending shard, one after the other."""
    scorer = scorer_for(run, run_id)
    return [record for shard in run.plan.pending for record in records_from(scorer.process(shard))]


def prepared(bundle: Path, corpus: Path, output: Path, /, **changes: Any) -> PreparedRun:
    """A run of the tests' night."""
    return prepare_run(score_spec(bundle, corpus, output, **changes), NIGHT)


def files_below(directory: Path) -> set[str]:
    """Relative paths of all files."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
