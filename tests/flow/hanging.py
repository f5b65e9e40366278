"""The real scoring job, with a worker that never comes back from one shard, or that eats all memory there."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.corpus.shards import Shard
from pipeline.inference.job import ScoreJob
from pipeline.inference.worker import ShardScorer
from pipeline.storage import Storage

_HANGING_BERTMILL = """
import sys
from functools import partial
from tests.flow import hanging
from tests.flow.slow import bertmill_with
bertmill_with(partial(getattr(hanging, sys.argv[1]), row=sys.argv[2]), *sys.argv[3:])
"""
_BITE_NUMBERS, MAX_BITES = 2**24, 60  # 128 MiB a bite, 7.5 GiB in all


@dataclass(frozen=True, kw_only=True)
class HangingJob(ScoreJob):
    """Hangs at the shard that begins with a row, `URI:row`; with a marker, in the first try only."""

    row: str
    marker: str | None = None

    def build(self) -> ShardScorer:
        scorer = super().build()
        work = scorer.process

        def process(shard: Shard) -> pa.Table:
            piece = shard.pieces[0]
            if f"{piece.file.uri}:{piece.start_row}" == self.row and self._strikes():
                self._befall()
            return work(shard)

        scorer.process = process  # type: ignore[method-assign]
        return scorer

    def _befall(self) -> None:
        threading.Event().wait()

    def _strikes(self) -> bool:
        return self.marker is None or Storage().create_bytes(self.marker, b"")


@dataclass(frozen=True, kw_only=True)
class HungryJob(HangingJob):
    """Takes memory at that shard, bite by bite, until somebody ends it."""

    def _befall(self) -> None:
        held = []
        for _ in range(MAX_BITES):
            held.append(np.ones(_BITE_NUMBERS))
            time.sleep(0.1)
        raise AssertionError("nobody minded")


def hanging_command(row: str, *arguments: str, job: type[HangingJob] = HangingJob) -> list[str]:
    return [sys.executable, "-c", _HANGING_BERTMILL, job.__name__, row, *arguments]
