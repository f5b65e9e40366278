"""Where one shard's time goes, and what it takes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from pipeline.output.spans import Span, join_spans
from pipeline.output.usage import ShardUsage, StageTimes, WorkerFacts

Stage = Literal["read", "tokenize", "model", "write"]
_STAGES: tuple[Stage, ...] = ("read", "tokenize", "model", "write")


class StageClock:
    """Counts what one shard takes, from the moment it is made; stages do not nest.

    Attributes:
        after_batch: Called after each of the model's batches, if set.
    """

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._spans: list[Span] = []
        self.read_bytes = 0
        self.flops = 0.0
        self.num_unknown_tokens = 0
        self.num_settled_rows = 0
        self.after_batch: Callable[[], None] | None = None

    @contextlib.contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        started_s = self.elapsed_s
        try:
            with torch.profiler.record_function(stage):  # its name in a trace
                yield
        finally:
            self._spans.append(Span(stage, started_s, self.elapsed_s))

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started_s

    def seconds_in(self, stage: Stage) -> float:
        """Seconds in a stage so far."""
        return sum(span.seconds for span in self._spans if span.stage == stage)

    def usage(self, facts: WorkerFacts) -> ShardUsage:
        """What was counted; `other_s` is the time in no stage."""
        seconds = {name: self.seconds_in(name) for name in _STAGES}
        other_s = max(self.elapsed_s - sum(seconds.values()), 0.0)
        stages = StageTimes(**{f"{name}_s": round(seconds[name], 5) for name in _STAGES}, other_s=round(other_s, 5))
        return ShardUsage(
            worker=f"{socket.gethostname()}:{os.getpid()}",
            facts=facts,
            ended_s=round(time.time(), 3),
            stages=stages,
            spans=join_spans(self._spans),
            read_bytes=self.read_bytes,
            flops=self.flops,
            num_unknown_tokens=self.num_unknown_tokens,
            num_settled_rows=self.num_settled_rows,
            peak_bytes=_peak_bytes(),
            peak_gpu_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        )


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
