"""What Ray costs a run of very many shards: made-up shards through the real stream, with workers that rest or sleep.

A worker that sleeps as long as a shard would take leaves the machine to Ray, so many of them fit a small one, and what
is between two shards of a worker is the scheduler's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import PoolOptions
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.corpus.stream import stream_shards
from pipeline.studies.scale import peak_mb
from pipeline.telemetry import ProgressDisplay

FloatArray = npt.NDArray[np.float64]
_BYTES_PER_S = 1_000_000  # a made-up shard's text is as long as it takes
_SPREAD = 0.5  # of the logarithm of shards' times: the longest of 1,000 takes five times the median


@dataclass(frozen=True)
class SleepingWorker:
    """A worker, and its own recipe, that sleeps for a shard's time: what is left is Ray's part."""

    def build(self) -> SleepingWorker:
        """Nothing to load."""
        return self

    def process(self, shard: Shard) -> pa.Table:
        """A receipt of the usual size, with who did it and when."""
        began_s = time.time()
        if shard.num_bytes:
            time.sleep(shard.num_bytes / _BYTES_PER_S)
        times = {"worker": [os.getpid()], "began_s": [began_s], "ended_s": [time.time()]}
        return pa.table({"record": [shard.name * 16], **times})


@dataclass(frozen=True)
class StreamFigures:
    """What a stream of shards took.

    Attributes:
        num_shards, num_workers: How many.
        first_s: Seconds of the clock to the first receipt.
        total_s: To the last.
        peak_mb: How much the driver's process grew at its peak.
        work_s: What the workers slept, together.
        gap_s: Between two shards of a worker, median.
        late_gap_s: The longest of 99 in 100 of those.
        span_s: From the first shard's beginning to the last one's end.
        bound_s: The least span that so many workers could have taken for these shards.
    """

    num_shards: int
    num_workers: int
    first_s: float
    total_s: float
    peak_mb: float
    work_s: float
    gap_s: float
    late_gap_s: float
    span_s: float
    bound_s: float

    @property
    def efficiency(self) -> float:
        """Share of the workers' time, from the first shard's beginning to the last one's end, in which they slept."""
        return self.work_s / (self.num_workers * self.span_s)


def measure_stream(num_shards: int, pool: PoolOptions, shard_s: float = 0.0) -> StreamFigures:
    """Stream so many shards; needs a running Ray, and memory means something in a fresh process only.

    Args:
        num_shards: How many.
        pool: Of workers.
        shard_s: What one takes on average; some take longer, and they come first, as in a night.
    """
    times = draw_times(num_shards, shard_s)
    shards = make_shards(times)
    before_mb, started_s, first_s = peak_mb(), time.monotonic(), 0.0
    receipts: list[pa.Table] = []
    with ProgressDisplay("streaming", num_shards, "shards") as display:
        for receipt in stream_shards(shards, SleepingWorker(), pool):
            receipts.append(receipt)
            first_s = first_s or time.monotonic() - started_s
            display.update(len(receipts))
    assert len(receipts) == num_shards, f"{len(receipts)} receipts of {num_shards} shards"
    total_s, grown_mb = time.monotonic() - started_s, peak_mb() - before_mb
    done = pa.concat_tables(receipts)
    began_s, ended_s = (done[name].to_numpy() for name in ("began_s", "ended_s"))
    gaps_s = _gaps(done["worker"].to_numpy(), began_s, ended_s)
    return StreamFigures(
        num_shards=num_shards,
        num_workers=pool.num_workers,
        first_s=first_s,
        total_s=total_s,
        peak_mb=grown_mb,
        work_s=float((ended_s - began_s).sum()),
        gap_s=float(np.median(gaps_s)),
        late_gap_s=float(np.quantile(gaps_s, 0.99)),
        span_s=float(ended_s.max() - began_s.min()),
        bound_s=max(float(times.sum()) / pool.num_workers, float(times.max())),
    )


def draw_times(num_shards: int, mean_s: float) -> FloatArray:
    """Seconds of so many shards, the same in every run: of one mean, unlike in length, the longest first."""
    drawn = np.random.default_rng(0).lognormal(sigma=_SPREAD, size=num_shards)
    return np.asarray(np.sort(drawn / drawn.mean() * mean_s)[::-1])


def describe_stream(figures: StreamFigures) -> str:
    """Lines of text."""
    per_shard_ms = 1000 * (figures.total_s - figures.first_s) / max(1, figures.num_shards - 1)
    lines = [
        f"{figures.num_shards:,} shards, {figures.num_workers} workers: first receipt after {figures.first_s:.1f} s, "
        f"all after {figures.total_s:.1f} s ({per_shard_ms:.2f} ms a shard), driver grew by {figures.peak_mb:,.0f} MB",
        f"between two shards of a worker {1000 * figures.gap_s:.1f} ms (median), "
        f"99 % below {1000 * figures.late_gap_s:.0f} ms",
    ]
    if figures.bound_s:
        lines.append(
            f"from the first shard's beginning to the last one's end {figures.span_s:.1f} s, at best "
            f"{figures.bound_s:.1f} s; workers were at work {figures.efficiency:.1%} of it"
        )
    return "\n".join(lines)


def _gaps(workers: npt.NDArray[np.int64], began_s: FloatArray, ended_s: FloatArray) -> FloatArray:
    """Seconds between each shard's end and the next one's beginning on the same worker."""
    order = np.lexsort((began_s, workers))
    workers, began_s, ended_s = workers[order], began_s[order], ended_s[order]
    gaps_s = (began_s[1:] - ended_s[:-1])[workers[1:] == workers[:-1]]
    return gaps_s if len(gaps_s) else np.zeros(1)


def make_shards(times: Iterable[float]) -> list[Shard]:
    """Made-up shards over which a `SleepingWorker` sleeps for so many seconds."""
    return [_made_up(index, float(seconds)) for index, seconds in enumerate(times)]


def _made_up(index: int, seconds: float) -> Shard:
    """A shard of one piece, under names as long as usual."""
    uri = f"s3://made-up-bucket/corpus/part-{index:08d}-0f2e7a9c-4f1d-4a77-9b53.c000.parquet"
    piece = Piece(CorpusFile(uri, 10_000_000, f"{index:032x}"), 0, 65_536)
    return Shard(f"{index:032x}", (piece,), int(seconds * _BYTES_PER_S))
