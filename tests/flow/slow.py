"""`bertmill` with workers that take their time, so that something can happen to a run while it scores."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.inference.job import ScoreJob
from pipeline.inference.worker import ShardScorer

SHARD_S = 0.7
_SLOW_BERTMILL = """
import sys
import pipeline.inference.run
from tests.flow.slow import SlowJob
pipeline.inference.run.ScoreJob = SlowJob
sys.argv = ["bertmill", *sys.argv[1:]]
import jobs.cli
jobs.cli.main()
"""


@dataclass(frozen=True)
class SlowJob(ScoreJob):
    """The real job, with a pause in every shard."""

    def build(self) -> ShardScorer:
        scorer = super().build()
        work = scorer._split

        def split(*scored: Any) -> object:
            time.sleep(SHARD_S)
            return work(*scored)

        scorer._split = split  # type: ignore[method-assign, assignment]
        return scorer


def slow_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _SLOW_BERTMILL, *arguments]


def wait_for_records(table: Path, num_records: int, process: subprocess.Popen[str], within_s: float = 120) -> int:
    """Wait until so many shards are finished; the process must still be at work then."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s and process.poll() is None:
        found = count_records(table)
        if found >= num_records:
            return found
        time.sleep(0.05)
    raise AssertionError(f"ended ({process.poll()}) or too slow: {count_records(table)} shards finished")


def wait_for_workers(ancestor: int, num_workers: int, process: subprocess.Popen[str], within_s: float = 120) -> int:
    """Wait until so many workers have been built below a process; the job must still be at work then."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s and process.poll() is None:
        found = len(find_workers(ancestor))
        if found >= num_workers:
            return found
        time.sleep(0.05)
    raise AssertionError(f"ended ({process.poll()}) or too slow: {len(find_workers(ancestor))} workers")


def find_workers(ancestor: int) -> list[psutil.Process]:
    """The processes below another one in which Ray Data's workers are at a shard."""
    found = []
    for child in psutil.Process(ancestor).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "MapWorker" in " ".join(child.cmdline()) and ".submit" in " ".join(child.cmdline()):
                found.append(child)
    return found


def count_records(table: Path) -> int:
    return len(list(table.glob("_bertmill/ledger/*/*/[0-9a-f]*.json")))


def output_of(command: Sequence[str], timeout_s: float, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)
