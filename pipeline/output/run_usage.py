"""What a run used: its workers' seconds by stage and by why they were idle, rates, bytes, memory, cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.output.usage import StageTimes, add_fields
from pipeline.output.workers import IdleTimes, RunTime, WorkerUsage, list_workers

if TYPE_CHECKING:
    from pipeline.output.ledger import DoneRecord


@dataclass(frozen=True)
class PoolUse:
    """The workers that a run paid for: how many, what each of them had, and what one costs an hour (None: unknown)."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    price_per_hour: float | None


@dataclass(frozen=True)
class RunUsage:
    """The workers of one run, summed; rates are over all of the run's time, start to commit.

    Attributes:
        stages: What workers did while they had a shard: in `model_s` the model ran, in all the others it stood still.
        busy_s: Seconds of workers with a shard: the sum of the stages.
        idle_s: Seconds of workers without one: workers x elapsed - busy.
        idle_share: The same as a share of workers x elapsed.
        idle: Why.
        before_s: Of the elapsed time, that before the first shard began: planning, Ray, loading the model.
        after_s: That after the last shard was written: accounts and commit.
        model_tflops_per_s: Model FLOP per second in the model, in 10^12, of one worker.
        model_flop_utilisation: Model FLOP as a share of what the devices could have done while the model ran.
        run_flop_utilisation: The same while they were paid for. Both None where the most a device does is unknown.
        peak_basis: Where that is from, for each kind of device.
        cost: workers x elapsed hours x price.
    """

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    stages: StageTimes
    busy_s: float
    idle_s: float
    idle_share: float
    idle: IdleTimes
    before_s: float
    after_s: float
    num_tokens: int
    num_padded_tokens: int
    num_unknown_tokens: int
    num_settled_rows: int
    rows_per_s: float
    tokens_per_s: float
    read_bytes: int
    written_bytes: int
    peak_bytes: int
    peak_gpu_bytes: int
    flops: float
    model_tflops_per_s: float
    model_flop_utilisation: float | None
    run_flop_utilisation: float | None
    peak_basis: str
    cost: float | None
    cost_per_million_rows: float | None

    @property
    def padding_share(self) -> float | None:
        """Padding as a share of the tokens that were computed; None where none was."""
        return padding_share(self.num_tokens, self.num_padded_tokens)


def padding_share(num_tokens: int, num_padded_tokens: int) -> float | None:
    """Padding as a share of the tokens that were computed; None where none was."""
    return 1 - num_tokens / num_padded_tokens if num_padded_tokens else None


def sum_usage(records: Sequence[DoneRecord], pool: PoolUse, elapsed_s: float) -> tuple[RunUsage, list[WorkerUsage]]:
    """Sum the shards of one run, and those of each of its workers.

    Args:
        records: Of the shards that this run scored.
        pool: What ran them.
        elapsed_s: From the run's command to now, when everything is committed.
    """
    end_s, elapsed_s = time.time(), max(elapsed_s, 1e-9)
    workers = list_workers(records, RunTime(end_s - elapsed_s, end_s, pool.num_workers))
    stages = StageTimes(**add_fields(StageTimes, [worker.stages for worker in workers]))
    paid_s = pool.num_workers * elapsed_s
    first_s = min((record.usage.ended_s - record.elapsed_s for record in records), default=end_s)
    last_s = max((record.usage.ended_s for record in records), default=end_s)
    num_rows, num_tokens = (sum(getattr(record, name) for record in records) for name in ("num_rows", "num_tokens"))
    flops = sum(worker.flops for worker in workers)
    cost = None if pool.price_per_hour is None else paid_s / 3600 * pool.price_per_hour
    usage = RunUsage(
        num_workers=pool.num_workers,
        cpus_per_worker=pool.cpus_per_worker,
        gpus_per_worker=pool.gpus_per_worker,
        stages=stages,
        busy_s=round(stages.busy_s, 3),
        idle_s=round(max(paid_s - stages.busy_s, 0.0), 3),
        idle_share=round(max(1 - stages.busy_s / paid_s, 0.0), 4),
        idle=_sum_idle(workers, paid_s - stages.busy_s),
        before_s=round(min(max(elapsed_s - (end_s - first_s), 0.0), elapsed_s), 3),
        after_s=round(max(end_s - last_s, 0.0), 3),
        num_tokens=num_tokens,
        num_padded_tokens=sum(record.num_padded_tokens for record in records),
        num_unknown_tokens=sum(record.usage.num_unknown_tokens for record in records),
        num_settled_rows=sum(record.usage.num_settled_rows for record in records),
        rows_per_s=round(num_rows / elapsed_s, 3),
        tokens_per_s=round(num_tokens / elapsed_s, 3),
        read_bytes=sum(worker.read_bytes for worker in workers),
        written_bytes=sum(worker.written_bytes for worker in workers),
        peak_bytes=max((worker.peak_bytes for worker in workers), default=0),
        peak_gpu_bytes=max((worker.peak_gpu_bytes for worker in workers), default=0),
        flops=flops,
        model_tflops_per_s=round(flops / stages.model_s / 1e12, 6) if stages.model_s else 0.0,
        model_flop_utilisation=_share(flops, [worker.peak_tflops_per_s * worker.stages.model_s for worker in workers]),
        run_flop_utilisation=_share(flops, [worker.peak_tflops_per_s * paid_s / len(workers) for worker in workers]),
        peak_basis="; ".join(dict.fromkeys(worker.peak_basis for worker in workers if worker.peak_basis)),
        cost=cost,
        cost_per_million_rows=cost / num_rows * 1e6 if cost is not None and num_rows else None,
    )
    return usage, workers


def _sum_idle(workers: Sequence[WorkerUsage], idle_s: float) -> IdleTimes:
    """Of all workers; what none of them accounts for is of those that were not used."""
    known = add_fields(IdleTimes, [worker.idle for worker in workers])
    unused_s = round(max(idle_s - sum(known.values()), 0.0), 3)
    return IdleTimes(**{**known, "unused_s": unused_s})


def _share(flops: float, possible_tera: Sequence[float]) -> float | None:
    """FLOP as a share of what was possible, in 10^12; None unless that is known of every worker."""
    return round(flops / sum(possible_tera) / 1e12, 4) if possible_tera and all(possible_tera) else None
