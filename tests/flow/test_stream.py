"""Workers that fail, through Ray Data: the driver hears exactly what they said."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from ray.data._internal import metadata_exporter

from jobs.session import stopping_on_sigterm
from pipeline.corpus import stream
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.corpus.stream import stream_shards
from pipeline.errors import ComputeError, InterruptedRunError, ShardLostError, TransientStorageError, WorkerLostError
from tests.flow import helpers

SHARDS = [Shard(f"s{number}", (Piece(CorpusFile("/c", 1, "e"), number, number + 1),), 0) for number in range(3)]


@dataclass(frozen=True)
class FailingWorker:
    """Cannot be built, or fails at one shard; both its recipe and itself."""

    fails_at: str

    def build(self) -> FailingWorker:
        if self.fails_at == "build":
            raise TransientStorageError("no answer", "try again")
        return self

    def process(self, shard: Shard) -> pa.Table:
        if shard.name == self.fails_at:
            raise TransientStorageError("no answer", "try again")
        return pa.table({"shard": [shard.name]})


@pytest.mark.parametrize("fails_at", ["build", "s1"])
def test_a_worker_s_error_reaches_the_driver_unchanged(fails_at: str, ray_local: None) -> None:
    with pytest.raises(TransientStorageError, match=r"^no answer\n  -> try again$") as raised:
        list(stream_shards(SHARDS, FailingWorker(fails_at), helpers.POOL))
    assert raised.value.exit_code == 75


def test_a_signal_is_heard_while_ray_data_starts(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data swallows whatever is raised while it describes what it is about to do."""
    describe, described = metadata_exporter.asdict, list[object]()

    def describe_at_a_bad_moment(operator: object) -> object:
        if not described:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        described.append(operator)
        return describe(operator)

    monkeypatch.setattr(metadata_exporter, "asdict", describe_at_a_bad_moment)
    with pytest.raises(InterruptedRunError, match="SIGTERM"), stopping_on_sigterm():
        list(stream_shards(SHARDS, FailingWorker("never"), helpers.POOL))


@dataclass(frozen=True)
class StarvingWorker:
    """Runs out of memory some times, at shard s1 (it gets none, or the kernel kills it) or earlier."""

    how: str
    num_times: int
    directory: str

    def build(self) -> StarvingWorker:
        if self.how == "building":
            raise MemoryError("no room for 9 bytes")
        if self.how == "starting" and self.count() < self.num_times:
            self._count_one_more()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "kernel":
            stream.count_memory_kills = self.count  # what the kernel would say
        return self

    def count(self) -> int:
        return len(os.listdir(self.directory))

    def _count_one_more(self) -> None:
        Path(self.directory, uuid.uuid4().hex).touch()

    def process(self, shard: Shard) -> pa.Table:
        if shard.name == "s1" and self.count() < self.num_times:
            self._count_one_more()
            if self.how == "kernel":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no room for 9 bytes")
        return pa.table({"shard": [shard.name]})


@pytest.mark.parametrize("how", ["error", pytest.param("kernel", marks=pytest.mark.slow)])
def test_a_worker_without_memory_is_replaced_and_the_run_goes_on(how: str, tmp_path: Path, ray_local: None) -> None:
    worker = StarvingWorker(how, 2, str(tmp_path))
    receipts = pa.concat_tables(list(stream_shards(SHARDS, worker, helpers.POOL)))
    assert sorted(receipts["shard"].to_pylist()) == ["s0", "s1", "s2"]
    assert worker.count() == 2


@pytest.mark.parametrize("how", ["kernel", pytest.param("error", marks=pytest.mark.slow)])
def test_a_shard_that_always_runs_out_of_memory_is_named(how: str, tmp_path: Path, ray_local: None) -> None:
    worker = StarvingWorker(how, 99, str(tmp_path))
    with pytest.raises(ShardLostError, match=r"shard s1 ran out of memory, 3 times: /c rows 1-1") as raised:
        list(stream_shards(SHARDS, worker, helpers.POOL))
    assert raised.value.exit_code == 75
    assert worker.count() == 3


def test_a_model_that_does_not_fit_is_told(tmp_path: Path, ray_local: None) -> None:
    with pytest.raises(ComputeError, match="no memory to start in: no room for 9 bytes"):
        list(stream_shards(SHARDS, StarvingWorker("building", 1, str(tmp_path)), helpers.POOL))


@pytest.mark.slow
def test_a_worker_that_never_starts_is_given_up(tmp_path: Path, ray_local: None) -> None:
    worker = StarvingWorker("starting", 99, str(tmp_path))
    with pytest.raises(WorkerLostError, match="a worker was started 5 times, and each time its process ended"):
        list(stream_shards(SHARDS, worker, helpers.POOL))
    assert worker.count() == 5
