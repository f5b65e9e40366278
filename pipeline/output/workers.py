"""What each worker of a run did with its time, from the shards it finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.output.usage import StageTimes, WorkerFacts, add_fields

if TYPE_CHECKING:
    from pipeline.output.ledger import DoneRecord


@dataclass(frozen=True, slots=True)
class IdleTimes:
    """Seconds in which a worker had no shard, by why.

    Attributes:
        planning_s: From the command to the moment the worker began to load: planning, Ray's start, imports.
        loading_s: Fetching and loading the model.
        scheduler_s: Ready, with shards still to come, and none given to it; the claim of a done-record is in it too.
        ending_s: After its last shard: other workers' last shards, accounts, the commit.
        unused_s: Paid for, and in no worker that finished a shard.
    """

    planning_s: float = 0.0
    loading_s: float = 0.0
    scheduler_s: float = 0.0
    ending_s: float = 0.0
    unused_s: float = 0.0

    @property
    def all_s(self) -> float:
        """All of them."""
        return self.planning_s + self.loading_s + self.scheduler_s + self.ending_s + self.unused_s


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """What one worker process did in a run.

    Attributes:
        worker: Host and process.
        device: What computed.
        stages: What it did while it had a shard: in `model_s` the model ran, in all the others it stood still.
        idle: Seconds without a shard.
        rows_per_s, tokens_per_s: From ready to the end of its last shard.
        model_tflops_per_s: Model FLOP per second in the model, in 10^12.
        peak_tflops_per_s: The most its device does; 0 if unknown. `peak_basis` says where that is from.
        model_flop_utilisation: The first as a share of the second; None if it is unknown.
    """

    worker: str
    device: str
    num_shards: int
    num_rows: int
    num_tokens: int
    num_padded_tokens: int
    stages: StageTimes
    idle: IdleTimes
    rows_per_s: float
    tokens_per_s: float
    flops: float
    model_tflops_per_s: float
    peak_tflops_per_s: float
    peak_basis: str
    model_flop_utilisation: float | None
    read_bytes: int
    written_bytes: int
    peak_bytes: int
    peak_gpu_bytes: int


@dataclass(frozen=True, slots=True)
class RunTime:
    """When a run began and ended, seconds since 1970, and how many workers it paid for."""

    start_s: float
    end_s: float
    num_workers: int


def list_workers(records: Iterable[DoneRecord], run: RunTime) -> list[WorkerUsage]:
    """Every process that finished a shard, the first to be ready first.

    A process that took the place of another one is paid for from its own beginning, and the one before it to its end.
    """
    by_worker = sorted(records, key=lambda record: record.usage.worker)
    groups = [list(group) for _, group in groupby(by_worker, key=lambda record: record.usage.worker)]
    groups.sort(key=_began_s)
    late = sorted(groups, key=_last_s)[-run.num_workers :]
    return [
        _sum_worker(group, run, index < run.num_workers, any(group is other for other in late))
        for index, group in enumerate(groups)
    ]


def worker_table(workers: Sequence[WorkerUsage]) -> pa.Table:
    """A row for each worker."""
    rows = []
    for worker in workers:
        row = asdict(worker)
        rows.append({**row.pop("stages"), **row.pop("idle"), **row})
    return pa.Table.from_pylist(rows, schema=_WORKER_SCHEMA)


def _arrow_fields(kind: type) -> list[pa.Field]:
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
    return [pa.field(known.name, types[str(known.type)]) for known in fields(kind) if str(known.type) in types]


_WORKER_SCHEMA = pa.schema([*_arrow_fields(WorkerUsage), *_arrow_fields(StageTimes), *_arrow_fields(IdleTimes)])


def _sum_worker(records: Sequence[DoneRecord], run: RunTime, is_first: bool, is_last: bool) -> WorkerUsage:
    usages = [record.usage for record in records]
    facts, stages = usages[-1].facts, StageTimes(**add_fields(StageTimes, [usage.stages for usage in usages]))
    began_s, ready_s, last_s = _began_s(records), _ready_s(records), _last_s(records)
    at_work_s = max(last_s - ready_s, 1e-9)
    flops, num_rows = sum(usage.flops for usage in usages), sum(record.num_rows for record in records)
    num_tokens = sum(record.num_tokens for record in records)
    rate = flops / stages.model_s if stages.model_s else 0.0
    return WorkerUsage(
        worker=usages[0].worker,
        device=facts.device,
        num_shards=len(records),
        num_rows=num_rows,
        num_tokens=num_tokens,
        num_padded_tokens=sum(record.num_padded_tokens for record in records),
        stages=stages,
        idle=IdleTimes(
            planning_s=round(max(began_s - run.start_s, 0.0), 3) if is_first else 0.0,
            loading_s=round(max(ready_s - began_s, 0.0), 3),
            scheduler_s=round(max(last_s - ready_s - stages.busy_s, 0.0), 3),
            ending_s=round(max(run.end_s - last_s, 0.0), 3) if is_last else 0.0,
        ),
        rows_per_s=round(num_rows / at_work_s, 3),
        tokens_per_s=round(num_tokens / at_work_s, 3),
        flops=flops,
        model_tflops_per_s=round(rate / 1e12, 6),
        peak_tflops_per_s=round(facts.peak_flops_per_s / 1e12, 6),
        peak_basis=facts.peak_basis,
        model_flop_utilisation=round(rate / facts.peak_flops_per_s, 4) if facts.peak_flops_per_s else None,
        read_bytes=sum(usage.read_bytes for usage in usages),
        written_bytes=sum(record.size_bytes + record.quarantine_size_bytes for record in records),
        peak_bytes=max(usage.peak_bytes for usage in usages),
        peak_gpu_bytes=max(usage.peak_gpu_bytes for usage in usages),
    )


def _start_s(record: DoneRecord) -> float:
    return record.usage.ended_s - record.elapsed_s


def _last_s(records: Sequence[DoneRecord]) -> float:
    return max(record.usage.ended_s for record in records)


def _ready_s(records: Sequence[DoneRecord]) -> float:
    """When it could take a shard; never later than its first one, whatever it says."""
    first_s = min(map(_start_s, records))
    return min(_facts(records).ready_s or first_s, first_s)


def _began_s(records: Sequence[DoneRecord]) -> float:
    return min(_facts(records).began_s or _ready_s(records), _ready_s(records))


def _facts(records: Sequence[DoneRecord]) -> WorkerFacts:
    return records[0].usage.facts
