"""What Ray's driver costs for very many shards: made-up shards through the real stream, with a worker that rests."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import PoolOptions
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.corpus.stream import stream_shards
from pipeline.studies.scale import peak_mb


@dataclass(frozen=True)
class RestingWorker:
    """A worker, and its own recipe, that does nothing: what is left is Ray's part."""

    def build(self) -> RestingWorker:
        """Nothing to load."""
        return self

    def process(self, shard: Shard) -> pa.Table:
        """A receipt of the usual size."""
        return pa.table({"record": [shard.name * 16]})


@dataclass(frozen=True)
class StreamFigures:
    """Wall seconds to the first and to the last receipt, and how much the driver's process grew at its peak."""

    num_shards: int
    first_s: float
    total_s: float
    peak_mb: float


def measure_stream(num_shards: int, pool: PoolOptions) -> StreamFigures:
    """Stream so many shards; needs a running Ray, and memory means something in a fresh process only."""
    shards = [_made_up(index) for index in range(num_shards)]
    before_mb, started_s, first_s, num_receipts = peak_mb(), time.monotonic(), 0.0, 0
    for _ in stream_shards(shards, RestingWorker(), pool):
        num_receipts += 1
        first_s = first_s or time.monotonic() - started_s
    assert num_receipts == num_shards, f"{num_receipts} receipts of {num_shards} shards"
    return StreamFigures(num_shards, first_s, time.monotonic() - started_s, peak_mb() - before_mb)


def describe_stream(figures: StreamFigures) -> str:
    """One line of text."""
    per_shard_ms = 1000 * (figures.total_s - figures.first_s) / max(1, figures.num_shards - 1)
    return (
        f"{figures.num_shards:,} shards: first receipt after {figures.first_s:.1f} s, "
        f"all after {figures.total_s:.1f} s ({per_shard_ms:.2f} ms a shard), driver grew by {figures.peak_mb:,.0f} MB"
    )


def _made_up(index: int) -> Shard:
    """A shard of one piece, under names as long as usual."""
    uri = f"s3://made-up-bucket/corpus/part-{index:08d}-0f2e7a9c-4f1d-4a77-9b53.c000.parquet"
    return Shard(f"{index:032x}", (Piece(CorpusFile(uri, 10_000_000, f"{index:032x}"), 0, 65_536),), 1)
