"""A submitted job's log, as it is written, through lost connections; and how the job ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.remote.server import JobServer
from jobs.remote.states import RemoteJob
from pipeline.errors import ClusterLostError, InterruptedRunError


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds."""

    idle_s: float = 60  # without a line: ask whether the job still runs, and connect again
    lost_s: float = 900  # without an answer: give up; a head node that is replaced is back before
    pause_s: float = 1
    longest_pause_s: float = 15
    sleep: Callable[[float], None] = time.sleep


def follow_job(
    server: JobServer,
    submission_id: str,
    write: Callable[[str], None],
    patience: Patience = Patience(),
) -> RemoteJob:
    """Write a job's log until the job has ended, each character once; returns the ended job.

    Raises:
        ClusterLostError: no answer for longer than patience allows.
        ComputeError: there is no such job, or the token is refused.
        InterruptedRunError: Ctrl-C; the job itself goes on.
    """
    log = _Log(write)
    try:
        while not (job := _watch_patiently(server, submission_id, log, patience)).is_over:
            patience.sleep(patience.pause_s)
    except KeyboardInterrupt:
        remedy = f"bertmill logs {submission_id}, or bertmill stop {submission_id}"
        raise InterruptedRunError("no longer followed; the job goes on", remedy) from None
    return job


def _watch_patiently(server: JobServer, submission_id: str, log: _Log, patience: Patience) -> RemoteJob:
    give_up_s, pause_s = time.monotonic() + patience.lost_s, patience.pause_s
    while True:
        try:
            return _watch(server, submission_id, log, patience.idle_s)
        except ClusterLostError as error:
            if time.monotonic() >= give_up_s:
                raise
            print(f"note: {error.message}; trying again", file=sys.stderr)
        patience.sleep(pause_s)
        pause_s = min(pause_s * 2, patience.longest_pause_s)


def _watch(server: JobServer, submission_id: str, log: _Log, idle_s: float) -> RemoteJob:
    """One connection's worth of log; a stream that breaks is no loss yet if the server then answers."""
    log.start_again()
    with contextlib.suppress(ClusterLostError):
        server.tail(submission_id, log.take, idle_s)
    job = server.info(submission_id)
    if job.is_over:  # the stream may have been cut before the last lines
        log.start_again()
        log.take(server.logs(submission_id))
    return job


class _Log:
    """Every stream starts at the log's beginning: what was written before is passed over."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._written, self._taken = write, 0, 0

    def start_again(self) -> None:
        self._taken = 0

    def take(self, text: str) -> None:
        fresh = text[max(0, self._written - self._taken) :]
        self._taken += len(text)
        if fresh:
            self._write(fresh)
            self._written = max(self._written, self._taken)
