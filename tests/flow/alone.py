"""`bertmill score` in this process, with its real checks, messages and exit codes, but a loop in place of Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

import jobs.night
import pipeline.inference.evaluate as evaluating
import pipeline.inference.run as scoring
from pipeline.config import ComputeConfig, PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.corpus.stream import WorkerFactory
from pipeline.inference.spec import ScoreSpec
from tests.flow import helpers
from tests.unit.jobs.command_line import Finished, run_command


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are worked through one after the other, here."""
    for plane in (scoring, evaluating):
        monkeypatch.setattr(plane, "stream_shards", _stream_here)
    monkeypatch.setattr(jobs.night, "ray_session", _no_session)


def score_alone(spec: ScoreSpec, directory: Path, run_date: str = helpers.NIGHT) -> Finished:
    """`bertmill score SPEC --date D`; call `without_ray` before."""
    return run_command("score", str(helpers.write_spec(directory, spec)), "--date", run_date)


def _stream_here(shards: Sequence[Shard], factory: WorkerFactory, pool: PoolOptions) -> Iterator[pa.Table]:
    worker = factory.build()
    return (worker.process(shard) for shard in shards)


@contextlib.contextmanager
def _no_session(compute: ComputeConfig, address: str | None) -> Iterator[PoolOptions]:
    yield helpers.POOL
