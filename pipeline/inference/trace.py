"""A trace of one shard on its way through a worker: torch's profiler, as a file that Perfetto and Chrome open."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.errors import BertmillError
from pipeline.inference.job import TraceTarget
from pipeline.inference.stages import StageClock
from pipeline.storage import Storage

MAX_BATCHES = 64
"""Of a shard's batches, the longest first: a shard has thousands, and each is some hundred events."""


@contextlib.contextmanager
def traced(target: TraceTarget | None, shard: str, clock: StageClock, storage: Storage) -> Iterator[None]:
    """Trace the block if it is about the target: its stages, and the operators of the model's first batches.

    A trace that cannot be written is left out, and the shard goes on: who asked for it sees that it is not there.
    """
    if target is None or target.shard != shard:
        yield
        return
    recorder = _Recorder()
    clock.after_batch = recorder.count_batch
    recorder.start()
    try:
        yield
    finally:
        clock.after_batch = None
        recorder.stop()
    with contextlib.suppress(BertmillError, OSError, RuntimeError):
        recorder.write(target.uri, storage)


class _Recorder:
    """The profiler of this thread, until it has seen enough."""

    def __init__(self) -> None:
        on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *on_gpu])
        self._num_batches, self._is_running = 0, False

    def start(self) -> None:
        self._profile.start()
        self._is_running = True

    def count_batch(self) -> None:
        self._num_batches += 1
        if self._num_batches >= MAX_BATCHES:
            self.stop()

    def stop(self) -> None:
        if self._is_running:
            self._is_running = False
            self._profile.stop()

    def write(self, uri: str, storage: Storage) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json.gz"
            self._profile.export_chrome_trace(str(file))
            storage.upload(file, uri)
