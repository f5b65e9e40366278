"""Shards -> workers -> receipts, through Ray Data. The only file that imports ray.data.

Each shard is exactly one block, holding the shard's description and not its rows: the worker reads, works and
writes by itself, so bulk data never crosses the object store and never reaches the driver. One fused operator
(no separate read, predict and write stages) is deliberate: pipelines of several operators with many blocks per
task can hang after a preemption (https://github.com/ray-project/ray/issues/64394).
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import pyarrow as pa
import ray
import ray.data
from ray import WorkerID
from ray._private.state import state
from ray.core.generated.common_pb2 import WorkerExitType
from ray.core.generated.gcs_pb2 import WorkerTableData
from ray.data import ActorPoolStrategy, DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import PoolOptions
from pipeline.corpus.deadline import (
    GRACE_S,
    Place,
    Tries,
    TryBook,
    Watchdog,
    check_starts,
    check_tries,
    count_memory_kills,
)
from pipeline.corpus.shards import Shard
from pipeline.errors import EXIT_RESUMABLE, BertmillError, ComputeError

_SHARD, _FAILURE = "shard", "bertmill_failure"


class ShardWorker(Protocol):
    """Works through shards, one at a time, in one process."""

    def process(self, shard: Shard) -> pa.Table:
        """Do all of a shard's work; return a small table saying what was done."""
        ...


class WorkerFactory(Protocol):
    """A small picklable recipe for a worker; `build` runs in the worker's own process, once."""

    def build(self) -> ShardWorker:
        """Load the model and whatever else the worker keeps."""
        ...


def stream_shards(shards: Sequence[Shard], factory: WorkerFactory, pool: PoolOptions) -> Iterator[pa.Table]:
    """Run every shard through a pool of workers and yield their receipts as they come, in no fixed order.

    A worker that dies is replaced and its shard runs again, so `process` must be safe to repeat. A worker that is at
    one shard for longer than the pool's deadline is ended like that.

    Raises:
        ShardDeadlineError: a shard passed the deadline too often.
        ShardLostError: a shard's worker died, or ran out of memory, too often.
        WorkerLostError: a worker died, or passed the deadline, too often while it started.
        BertmillError: whatever a worker raised, as it raised it.
    """
    if not shards:
        return
    _quiet_context()
    # Not through reading tasks: each needs a CPU, and where workers have them all Ray Data waits for ever.
    dataset = ray.data.from_blocks([_pickle(_SHARD, shard) for shard in shards]).map_batches(
        _PoolActor,
        batch_size=1 if pool.gpus_per_worker else None,  # a block is one row; with GPUs Ray Data asks for a number
        batch_format="pyarrow",
        fn_constructor_args=(factory, pool.shard_deadline_s, _open_book()),
        compute=ActorPoolStrategy(size=min(pool.num_workers, len(shards))),
        num_cpus=pool.cpus_per_worker,
        num_gpus=pool.gpus_per_worker,
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        if block.column_names == [_FAILURE]:
            raise _unpickle(block, _FAILURE)
        yield block


class _PoolActor:
    """What Ray Data keeps in each worker process.

    A BertmillError travels as a block: Ray Data's wrapper drops an exception's cause, or adds to its text.
    """

    def __init__(self, factory: WorkerFactory, deadline_s: float, book: Any) -> None:
        self._deadline_s, self._book = deadline_s, book
        self._worker = self._build(factory)

    def _build(self, factory: WorkerFactory) -> ShardWorker:
        actor = ray.get_runtime_context().get_actor_id()  # the same after a restart, which Ray never ends by itself
        try:
            check_starts(self._begin(actor), self._deadline_s)
            with Watchdog(self._deadline_s, lambda: self._note(self._book.note_overdue, actor)):
                worker = factory.build()
        except BertmillError as failure:
            return _Broken(failure)
        except MemoryError as error:
            return _Broken(ComputeError(f"a worker has no memory to start in: {error}", "give workers more memory"))
        self._book.end.remote(actor)
        return worker

    def _begin(self, name: str) -> Tries:
        place = Place(socket.gethostname(), ray.get_runtime_context().get_worker_id(), count_memory_kills())
        tries: Tries = ray.get(self._book.begin.remote(name, place))
        return tries

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            return self._process(_unpickle(block, _SHARD))
        except BertmillError as failure:
            return _pickle(_FAILURE, failure)

    def _process(self, shard: Shard) -> pa.Table:
        check_tries(shard, self._begin(shard.name), self._deadline_s)
        with Watchdog(self._deadline_s, lambda: self._note(self._book.note_overdue, shard.name)):
            try:
                receipt = self._worker.process(shard)
            except MemoryError:
                self._give_way(shard)
        self._book.end.remote(shard.name)
        return receipt

    def _give_way(self, shard: Shard) -> NoReturn:
        """End this process, and with it all that it holds; another one tries the shard."""
        with contextlib.suppress(Exception):
            traceback.print_exc()
            self._note(self._book.note_starved, shard.name)
        os._exit(EXIT_RESUMABLE)

    def _note(self, method: Any, name: str) -> None:
        ray.get(method.remote(name), timeout=GRACE_S / 2)


def _open_book() -> Any:
    """A `TryBook` in a process of its own on the driver's machine: it outlives every worker."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(TryBook).options(**options).remote(_died_of_memory)


def _died_of_memory(worker_id: str) -> bool:
    """Whether Ray's own monitor killed a worker because its machine's memory ran out; no, where that cannot be told."""
    with contextlib.suppress(Exception):  # a shard is tried again whatever the answer
        # Nothing public tells without Ray's dashboard: this is the table that `ray list workers` shows.
        found = state._connect_and_get_accessor().get_worker_info(WorkerID.from_hex(worker_id))
        return bool(WorkerTableData.FromString(found).exit_type == WorkerExitType.NODE_OUT_OF_MEMORY)
    return False


@dataclass(frozen=True)
class _Broken:
    """A worker that could not be built, and says so of its first shard."""

    failure: BertmillError

    def process(self, shard: Shard) -> pa.Table:
        raise self.failure


def _pickle(column: str, value: object) -> pa.Table:
    return pa.table({column: pa.array([pickle.dumps(value)], pa.binary())})


def _unpickle(block: pa.Table, column: str) -> Any:
    (value,) = (pickle.loads(value) for value in block[column].to_pylist())  # our own bytes, never stored
    return value


def _quiet_context() -> None:
    """Settings without which Ray Data splits blocks, and logs that say what our own progress says better."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
