"""What each shard took: seconds by stage, bytes, tokens and memory."""

from __future__ import annotations

import sys
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
class WorkerFacts:
    """What a worker knows of itself when its model is loaded.

    Attributes:
        began_s: When it began to load, seconds since 1970 by its clock.
        ready_s: When it could take its first shard.
        device: What computes, by name.
        peak_flops_per_s: The most its device does in the run's precision; 0 if unknown.
        peak_basis: Where that is from.
    """

    began_s: float = 0.0
    ready_s: float = 0.0
    device: str = ""
    peak_flops_per_s: float = 0.0
    peak_basis: str = ""


@dataclass(frozen=True, slots=True)
class ShardUsage:
    """What one shard took.

    Attributes:
        worker: Host and process that scored it.
        facts: What that worker said of itself.
        ended_s: When it was written, seconds since 1970 by the worker's clock.
        stages: Where its time went.
        spans: When it was in which stage, from its beginning, as `pipeline.output.spans` writes it.
        read_bytes: Arrow bytes of the columns that were read, uncompressed.
        flops: Model FLOP of the real tokens, see `pipeline.encoder.flops`.
        num_unknown_tokens: Tokens that the vocabulary does not have.
        num_settled_rows: Rows that ran again in fp32, as half precision could not decide them, or to find which.
        peak_bytes: Most memory the process had so far.
        peak_gpu_bytes: Most GPU memory torch had allocated so far; 0 on a CPU.
    """

    worker: str = ""
    facts: WorkerFacts = WorkerFacts()
    ended_s: float = 0.0
    stages: StageTimes = StageTimes()
    spans: str = ""
    read_bytes: int = 0
    flops: float = 0.0
    num_unknown_tokens: int = 0
    num_settled_rows: int = 0
    peak_bytes: int = 0
    peak_gpu_bytes: int = 0


def parse_usage(values: Mapping[str, Any]) -> ShardUsage:
    """A shard's usage from JSON.

    Raises:
        KeyError, TypeError: it is not one.
    """
    nested = {
        "stages": StageTimes(**_fields(StageTimes, values["stages"])),
        "facts": WorkerFacts(**_fields(WorkerFacts, values["facts"])),
    }
    return ShardUsage(**_fields(ShardUsage, values) | nested)


def add_fields(kind: type, parts: Sequence[object]) -> dict[str, float]:
    """The sum of each field of a class of seconds, to the millisecond."""
    return {known.name: round(sum(getattr(part, known.name) for part in parts), 3) for known in fields(kind)}


def _fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a class, and a short text once in memory: thousands of shards name one worker."""
    found = {known.name: values[known.name] for known in fields(kind)}
    return {name: sys.intern(value) if type(value) is str else value for name, value in found.items()}


def shard_table(records: Sequence[DoneRecord]) -> pa.Table:
    """A row for each shard, in the order in which they ended: its rows, tokens and usage."""
    ordered = sorted(records, key=lambda record: (record.usage.ended_s, record.shard))
    rows = [_shard_row(record) for record in ordered]
    return pa.Table.from_pylist(rows, schema=_SHARD_SCHEMA)


_OF_USAGE = ("worker", "ended_s", "spans", "read_bytes", "peak_bytes", "peak_gpu_bytes")
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
        pa.field("spans", pa.string()),
        pa.field("read_bytes", pa.int64()),
        pa.field("written_bytes", pa.int64()),
        pa.field("peak_bytes", pa.int64()),
        pa.field("peak_gpu_bytes", pa.int64()),
    ]
)


def _shard_row(record: DoneRecord) -> dict[str, Any]:
    usage = record.usage
    named = {name: getattr(record, name) for name in ("shard", "num_rows", "num_tokens", "num_padded_tokens")}
    of_usage = {name: getattr(usage, name) for name in _OF_USAGE}
    written_bytes = record.size_bytes + record.quarantine_size_bytes
    times = {"elapsed_s": record.elapsed_s, **asdict(usage.stages)}
    return {**named, **of_usage, **times, "written_bytes": written_bytes}
