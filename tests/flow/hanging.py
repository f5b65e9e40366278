"""The real scoring job, with a worker that never comes back from one shard."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass

import pyarrow as pa

from pipeline.corpus.shards import Shard
from pipeline.inference.job import ScoreJob
from pipeline.inference.worker import ShardScorer
from pipeline.storage import Storage

_HANGING_BERTMILL = """
import sys
from functools import partial
from tests.flow.hanging import HangingJob
from tests.flow.slow import bertmill_with
bertmill_with(partial(HangingJob, row=sys.argv[1]), *sys.argv[2:])
"""


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
                threading.Event().wait()
            return work(shard)

        scorer.process = process  # type: ignore[method-assign]
        return scorer

    def _strikes(self) -> bool:
        return self.marker is None or Storage().create_bytes(self.marker, b"")


def hanging_command(row: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", _HANGING_BERTMILL, row, *arguments]
