"""`bertmill` with workers that take their time, so that something can happen to a run while it scores."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from pipeline.corpus.shards import Shard
from pipeline.inference.job import ScoreJob
from pipeline.inference.worker import ShardScorer
from tests.patience import PATIENCE_S

SHARD_S = 0.7
_SLOW_BERTMILL = """
import sys
from tests.flow.slow import SlowJob, bertmill_with
bertmill_with(SlowJob, *sys.argv[1:])
"""


@dataclass(frozen=True)
class SlowJob(ScoreJob):
    """The real job, with a pause in the middle of every shard."""

    def build(self) -> ShardScorer:
        scorer = super().build()
        work, split, pauses = scorer.process, scorer._split, list[float]()

        def split_slowly(*scored: Any) -> Any:
            time.sleep(SHARD_S)
            pauses.append(SHARD_S)
            return split(*scored)

        def process(shard: Shard) -> pa.Table:
            pauses.clear()
            receipt = work(shard)
            assert pauses == [SHARD_S], "every shard must have had its pause"
            return receipt

        scorer._split = split_slowly  # type: ignore[method-assign]
        scorer.process = process  # type: ignore[method-assign]
        return scorer


def slow_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _SLOW_BERTMILL, *arguments]


def bertmill_with(make_job: Callable[..., ScoreJob], *arguments: str) -> None:
    """Run `bertmill` with another job in the place of its own; it must have shards to score."""
    import jobs.cli
    from pipeline.inference import prepare

    made = []

    def make(*given: Any) -> ScoreJob:
        made.append(make_job(*given))
        return made[-1]

    assert prepare.ScoreJob is ScoreJob, "this must be where bertmill makes its job, under this name"
    prepare.ScoreJob = make  # type: ignore[assignment, misc]
    sys.argv = ["bertmill", *arguments]
    status: object = None
    try:
        jobs.cli.main()
    except SystemExit as ended:
        status = ended.code
    assert made or status, "bertmill scored without the job that was put in its place"
    sys.exit(status)  # type: ignore[arg-type]


def wait_for_records(table: Path, num_records: int, process: subprocess.Popen[str]) -> int:
    """Wait until so many shards are finished; the process must still be at work then."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        found = count_records(table)
        if found >= num_records:
            return found
        time.sleep(0.05)
    raise AssertionError(f"ended ({process.poll()}) or too slow: {count_records(table)} shards finished")


def wait_for_workers(ancestor: int, num_workers: int, process: subprocess.Popen[str]) -> int:
    """Wait until so many workers have been built below a process; the job must still be at work then."""
    deadline_s = time.monotonic() + PATIENCE_S
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


def output_of(command: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S)
