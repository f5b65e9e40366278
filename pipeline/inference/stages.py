"""Where one shard's time goes, and what it takes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from typing import Literal

import torch

from pipeline.output.usage import ShardUsage, StageTimes

Stage = Literal["read", "tokenize", "model", "write"]


class StageClock:
    """Counts what one shard takes, from the moment it is made; stages do not nest."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._seconds: dict[Stage, float] = dict.fromkeys(("read", "tokenize", "model", "write"), 0.0)
        self.read_bytes = 0
        self.flops = 0.0
        self.num_unknown_tokens = 0

    @contextlib.contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._seconds[stage] += time.monotonic() - started_s

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started_s

    def usage(self) -> ShardUsage:
        """What was counted; `other_s` is the time in no stage."""
        other_s = max(self.elapsed_s - sum(self._seconds.values()), 0.0)
        seconds = {f"{stage}_s": round(value, 5) for stage, value in self._seconds.items()}
        return ShardUsage(
            worker=f"{socket.gethostname()}:{os.getpid()}",
            ended_s=round(time.time(), 3),
            stages=StageTimes(**seconds, other_s=round(other_s, 5)),
            read_bytes=self.read_bytes,
            flops=self.flops,
            num_unknown_tokens=self.num_unknown_tokens,
            peak_bytes=_peak_bytes(),
            peak_gpu_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        )


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
