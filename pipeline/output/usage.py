"""What a run used: each shard's seconds by stage, bytes, tokens and memory, and their sum over the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pipeline.output.ledger import DoneRecord


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of one worker by what it did; `other_s` is what is left: decoding, assembling, filtering."""

    read_s: float = 0.0
    tokenize_s: float = 0.0
    model_s: float = 0.0
    write_s: float = 0.0
    other_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """All of them."""
        return self.read_s + self.tokenize_s + self.model_s + self.write_s + self.other_s


@dataclass(frozen=True, slots=True)
class ShardUsage:
    """What one shard took.

    Attributes:
        worker: Host and process that scored it.
        ended_s: When it was written, seconds since 1970 by the worker's clock.
        stages: Where its time went.
        read_bytes: Arrow bytes of the columns that were read, uncompressed.
        flops: Model FLOP of the real tokens, see `pipeline.encoder.flops`.
        num_unknown_tokens: Tokens that the vocabulary does not have.
        peak_bytes: Most memory the process had so far.
        peak_gpu_bytes: Most GPU memory torch had allocated so far; 0 on a CPU.
    """

    worker: str = ""
    ended_s: float = 0.0
    stages: StageTimes = StageTimes()
    read_bytes: int = 0
    flops: float = 0.0
    num_unknown_tokens: int = 0
    peak_bytes: int = 0
    peak_gpu_bytes: int = 0


@dataclass(frozen=True)
class PoolUse:
    """The workers that a run paid for: how many, what each of them had, and what one costs an hour (None: unknown)."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    price_per_hour: float | None


@dataclass(frozen=True)
class RunUsage:
    """The shards that one run scored, summed; rates are over all of the run's time, start to commit.

    Attributes:
        idle_s: Seconds of workers in which none of the stages ran: workers x elapsed - busy.
        idle_share: The same as a share of workers x elapsed.
        before_s: Of the elapsed time, that before the first shard began: planning, Ray, loading the model.
        after_s: That after the last shard was written: accounts and commit.
        model_tflops_per_s: Model FLOP per second in the model, in 10^12.
        cost: workers x elapsed hours x price.
    """

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    stages: StageTimes
    busy_s: float
    idle_s: float
    idle_share: float
    before_s: float
    after_s: float
    num_tokens: int
    num_padded_tokens: int
    num_unknown_tokens: int
    rows_per_s: float
    tokens_per_s: float
    read_bytes: int
    written_bytes: int
    peak_bytes: int
    peak_gpu_bytes: int
    flops: float
    model_tflops_per_s: float
    cost: float | None
    cost_per_million_rows: float | None


def parse_usage(values: Mapping[str, Any]) -> ShardUsage:
    """A shard's usage from JSON.

    Raises:
        KeyError, TypeError: it is not one.
    """
    stages = StageTimes(**{known.name: values["stages"][known.name] for known in fields(StageTimes)})
    return ShardUsage(**{known.name: values[known.name] for known in fields(ShardUsage)} | {"stages": stages})


def sum_usage(records: Sequence[DoneRecord], pool: PoolUse, elapsed_s: float) -> RunUsage:
    """Sum the shards of one run.

    Args:
        records: Of the shards that this run scored.
        pool: What ran them.
        elapsed_s: From the run's command to now, when everything is committed.
    """
    usages = [record.usage for record in records]
    names = [known.name for known in fields(StageTimes)]
    stages = StageTimes(**{name: round(sum(getattr(item.stages, name) for item in usages), 3) for name in names})
    paid_s, elapsed_s = pool.num_workers * elapsed_s, max(elapsed_s, 1e-9)
    before_s, after_s = _around(records, elapsed_s)
    num_rows, num_tokens = (sum(getattr(record, name) for record in records) for name in ("num_rows", "num_tokens"))
    flops = sum(item.flops for item in usages)
    cost = None if pool.price_per_hour is None else paid_s / 3600 * pool.price_per_hour
    return RunUsage(
        num_workers=pool.num_workers,
        cpus_per_worker=pool.cpus_per_worker,
        gpus_per_worker=pool.gpus_per_worker,
        stages=stages,
        busy_s=round(stages.busy_s, 3),
        idle_s=round(max(paid_s - stages.busy_s, 0.0), 3),
        idle_share=round(max(1 - stages.busy_s / paid_s, 0.0), 4) if paid_s else 0.0,
        before_s=round(before_s, 3),
        after_s=round(after_s, 3),
        num_tokens=num_tokens,
        num_padded_tokens=sum(record.num_padded_tokens for record in records),
        num_unknown_tokens=sum(item.num_unknown_tokens for item in usages),
        rows_per_s=round(num_rows / elapsed_s, 3),
        tokens_per_s=round(num_tokens / elapsed_s, 3),
        read_bytes=sum(item.read_bytes for item in usages),
        written_bytes=sum(record.size_bytes + record.quarantine_size_bytes for record in records),
        peak_bytes=max((item.peak_bytes for item in usages), default=0),
        peak_gpu_bytes=max((item.peak_gpu_bytes for item in usages), default=0),
        flops=flops,
        model_tflops_per_s=round(flops / stages.model_s / 1e12, 6) if stages.model_s else 0.0,
        cost=cost,
        cost_per_million_rows=cost / num_rows * 1e6 if cost is not None and num_rows else None,
    )


def shard_table(records: Sequence[DoneRecord]) -> pa.Table:
    """A row for each shard, in the order in which they ended: its rows, tokens and usage."""
    ordered = sorted(records, key=lambda record: (record.usage.ended_s, record.shard))
    rows = [_shard_row(record) for record in ordered]
    return pa.Table.from_pylist(rows, schema=_SHARD_SCHEMA)


_SHARD_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("worker", pa.string()),
        pa.field("num_rows", pa.int64()),
        pa.field("num_tokens", pa.int64()),
        pa.field("num_padded_tokens", pa.int64()),
        pa.field("ended_s", pa.float64()),
        pa.field("elapsed_s", pa.float64()),
        *(pa.field(known.name, pa.float64()) for known in fields(StageTimes)),
        pa.field("read_bytes", pa.int64()),
        pa.field("written_bytes", pa.int64()),
        pa.field("peak_bytes", pa.int64()),
    ]
)


def _shard_row(record: DoneRecord) -> dict[str, Any]:
    usage = record.usage
    named = {name: getattr(record, name) for name in ("shard", "num_rows", "num_tokens", "num_padded_tokens")}
    of_usage = {name: getattr(usage, name) for name in ("worker", "ended_s", "read_bytes", "peak_bytes")}
    written_bytes = record.size_bytes + record.quarantine_size_bytes
    times = {"elapsed_s": record.elapsed_s, **asdict(usage.stages)}
    return {**named, **of_usage, **times, "written_bytes": written_bytes}


def _around(records: Sequence[DoneRecord], elapsed_s: float) -> tuple[float, float]:
    """Seconds before the first shard began and since the last one was written; the run ends now."""
    if not records:
        return elapsed_s, 0.0
    now_s = time.time()
    first_s = min(record.usage.ended_s - record.elapsed_s for record in records)
    last_s = max(record.usage.ended_s for record in records)
    return max(elapsed_s - (now_s - first_s), 0.0), max(now_s - last_s, 0.0)
