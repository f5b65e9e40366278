"""A shard whose worker never comes back: tried again elsewhere, then named; what else is done stays done."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.corpus.stream import stream_shards
from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.source import ModelSource
from pipeline.inference.spec import ScoreSpec
from pipeline.output.ledger import DoneRecord, records_from
from pipeline.output.table import open_table
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.hanging import HangingJob, hanging_command
from tests.flow.slow import count_records, output_of
from tests.flow.test_interrupted import undisturbed_rows
from tests.tiny import make_bundle

DEADLINE_S = 3.0


@pytest.fixture
def spec(tmp_path: Path) -> ScoreSpec:
    helpers.write_demo_corpus(str(tmp_path / "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    return helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))


def _row_of(run: PreparedRun, index: int) -> str:
    piece = run.plan.pending[index].pieces[0]
    return f"{piece.file.uri}:{piece.start_row}"


def test_a_shard_that_hangs_once_is_tried_again(
    spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_local: None
) -> None:
    run = prepare_run(spec, helpers.NIGHT)
    marker = tmp_path / "hung"
    model = ModelSource(run.spec.bundle, run.source.texts, run.spec.compute, 1, run.ledger.storage)
    job = HangingJob(
        model, run.source, run.ledger, run.table_schema, "hung-run", row=_row_of(run, 5), marker=str(marker)
    )
    pool = replace(helpers.POOL, shard_deadline_s=DEADLINE_S)
    records: list[DoneRecord] = []
    for receipt in stream_shards(run.plan.pending, job, pool):
        records += records_from(receipt)
    publish_run(run, records, "hung-run", 0.0)

    assert marker.exists(), "the worker must have hung"
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_shard_that_always_hangs_is_named_and_the_rest_is_kept(
    spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare_run(spec, helpers.NIGHT)
    arguments = ["nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT]
    deadline = ["--set", f"compute.shard_deadline_s={DEADLINE_S}"]
    hung = output_of(hanging_command(_row_of(run, 5), *arguments, *deadline), helpers.REPOSITORY)

    assert hung.returncode == 75, hung.stdout + hung.stderr
    assert f"shard {run.plan.pending[5].name} was not done within 3 s, 3 times" in hung.stderr
    assert run.plan.pending[5].pieces[0].file.uri in hung.stderr
    assert "Traceback" not in hung.stderr
    assert open_table(spec.output.uri, Storage()) is None
    num_kept = count_records(tmp_path / "scores")
    assert 5 <= num_kept < len(run.plan.pending)
    again = output_of([sys.executable, "-m", "jobs.cli", *arguments], helpers.REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert f"shards {len(run.plan.pending)}, of which {num_kept} were already done" in again.stdout
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
