"""Shards -> workers -> receipts, through Ray Data. The only file that imports ray.data.

Each shard is exactly one block, holding the shard's description and not its rows: the worker reads, works and
writes by itself, so bulk data never crosses the object store and never reaches the driver. One fused operator
(no separate read, predict and write stages) is deliberate: pipelines of several operators with many blocks per
task can hang after a preemption (https://github.com/ray-project/ray/issues/64394).
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.config import PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.errors import BertmillError


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

    A worker that dies is replaced and its shard runs again, so `process` must be safe to repeat.

    Raises:
        BertmillError: whatever a worker raised, as it raised it.
    """
    if not shards:
        return
    _quiet_context()
    dataset = ray.data.read_datasource(_ShardSource(shards), override_num_blocks=len(shards)).map_batches(
        _PoolActor,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(factory,),
        compute=ActorPoolStrategy(size=min(pool.num_workers, len(shards))),
        num_cpus=pool.cpus_per_worker,
        num_gpus=pool.gpus_per_worker,
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except Exception as error:
        cause = find_cause(error)
        if cause is None:
            raise
        raise cause from None


def find_cause(error: BaseException) -> BertmillError | None:
    """The BertmillError inside Ray's wrappers, if there is one."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, BertmillError) and type(current).__module__ == BertmillError.__module__:
            return current
        seen.add(id(current))
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
    return None


class _PoolActor:
    """What Ray Data keeps in each worker process."""

    def __init__(self, factory: WorkerFactory) -> None:
        self._worker = factory.build()

    def __call__(self, block: pa.Table) -> pa.Table:
        (shard,) = (pickle.loads(value) for value in block["shard"].to_pylist())  # our own bytes, never stored
        return self._worker.process(shard)


class _ShardSource(Datasource):  # type: ignore[misc]
    """One read task, and so one block, per shard."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        super().__init__()
        self._pickled = [pickle.dumps(shard) for shard in shards]

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(len(pickled) for pickled in self._pickled)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [_read_task(pickled) for pickled in self._pickled]


def _read_task(pickled: bytes) -> ReadTask:
    metadata = BlockMetadata(num_rows=1, size_bytes=len(pickled), input_files=None, exec_stats=None)
    return ReadTask(lambda: [pa.table({"shard": pa.array([pickled], pa.binary())})], metadata)


def _quiet_context() -> None:
    """Settings without which Ray Data splits blocks, and logs that say what our own progress says better."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
