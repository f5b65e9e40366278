"""What every worker of a run is told; torch is loaded where a worker is built, and not by the driver."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.inference.reuse import ReuseSource
from pipeline.inference.source import FirstModel, InputSource, ModelSource
from pipeline.output.ledger import Ledger

if TYPE_CHECKING:
    from pipeline.inference.worker import ShardScorer


@dataclass(frozen=True)
class TraceTarget:
    """Which shard is traced, by name, and the file that says how it went. Whichever worker gets it writes it."""

    shard: str
    uri: str


@dataclass(frozen=True)
class ScoreJob:
    """Everything a worker of one run is told; picklable, holds no secret."""

    model: ModelSource
    source: InputSource
    ledger: Ledger
    table_schema: pa.Schema
    run_id: str
    reuse: ReuseSource | None = None
    first: FirstModel | None = None
    trace: TraceTarget | None = None

    def build(self) -> ShardScorer:
        """Load the model in the worker's own process."""
        began_s = time.time()
        from pipeline.inference.predictor import load_predictor
        from pipeline.inference.worker import ShardScorer

        first = load_predictor(self.first.model) if self.first is not None else None
        return ShardScorer(self, load_predictor(self.model), began_s, first)
