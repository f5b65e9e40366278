"""Workers through Ray Data: those left without work end before the last shard does."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import psutil
import pyarrow as pa
import pytest

from pipeline.config import PoolOptions
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.corpus.stream import stream_shards

_LONG_S = 15.0


@dataclass(frozen=True)
class SleepyWorker:
    """Sleeps long over the first shard and says when it was done."""

    def build(self) -> SleepyWorker:
        return self

    def process(self, shard: Shard) -> pa.Table:
        time.sleep(_LONG_S if shard.name == "s0" else 0.2)
        return pa.table({"ended_s": [time.time()]})


@pytest.mark.slow
def test_workers_without_work_end_before_the_last_shard_does(ray_local: None) -> None:
    """On a cluster that shrinks by itself their nodes need not wait for the longest shard."""
    seen: list[tuple[float, int]] = []
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(0.2):
            seen.append((time.time(), sum(map(_is_worker, psutil.Process().children(recursive=True)))))

    threading.Thread(target=watch, daemon=True).start()
    receipts = pa.concat_tables(stream_shards(_some(9), SleepyWorker(), PoolOptions(3, 0.5, 0.0))).to_pylist()
    has_ended.set()
    last_s = max(receipt["ended_s"] for receipt in receipts)
    assert len(receipts) == 9
    assert max(number for _, number in seen) == 3
    assert min(number for at_s, number in seen if last_s - 5 < at_s < last_s - 1) == 1


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "MapWorker" in " ".join(process.cmdline())
    return False


def _some(number: int) -> list[Shard]:
    return [Shard(f"s{place}", (Piece(CorpusFile("/c", 1, "e"), place, place + 1),), 0) for place in range(number)]
