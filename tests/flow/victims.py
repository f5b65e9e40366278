"""`bertmill nightly` in processes of their own that can be killed, without Ray and without importing torch each time.

`python -m tests.flow.victims` imports everything, starts no thread, and forks a child for every run it is asked for on
standard input. A child works through its shards in a loop, so that a run takes a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import jobs.cli
import jobs.night
import pipeline.inference.publish as publishing
import pipeline.inference.run as scoring
import pipeline.output.lock as locking
import pipeline.output.table as tables
from pipeline.config import PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.corpus.stream import WorkerFactory
from pipeline.inference.coverage import CoverageStore
from pipeline.output.ledger import Ledger
from tests import tiny  # noqa: F401  (the network's modules, imported before the fork)
from tests.flow import helpers

MOMENTS = ("plan", "half", "all", "quarantine", "coverage", "before", "create", "during", "after", "current", "listed")
MOMENTS += ("manifest",)
AFTER_COMMIT = ("after", "current", "listed", "manifest")


@dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        arguments: After `bertmill`.
        moment: When the process is killed; empty for never.
        meeting: A folder in which racing publishers wait for each other; empty for none.
        num_racers: How many they are.
    """

    arguments: tuple[str, ...]
    moment: str = ""
    meeting: str = ""
    num_racers: int = 1


@dataclass(frozen=True)
class Ended:
    """How a child ended, and what it printed."""

    status: int
    output: str


class Victims:
    """The process that forks the children."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.flow.victims", str(directory)]
        self._process = subprocess.Popen(
            command, cwd=helpers.REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *runs: Run) -> list[Ended]:
        """Run some commands side by side."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(run) for run in runs]) + "\n")
        self._process.stdin.flush()
        return [Ended(status, output) for status, output in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)


def _serve(directory: Path) -> None:
    for line in sys.stdin:
        orders = json.loads(line)
        logs = [directory / f"{index}.log" for index in range(len(orders))]
        pids = [_fork(Run(**order), log) for order, log in zip(orders, logs, strict=True)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps([(status, log.read_text()) for status, log in zip(statuses, logs, strict=True)]), flush=True)


def _fork(run: Run, log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    code: object = 70
    try:
        _work(run)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _work(run: Run) -> None:
    torch.set_num_threads(1)
    scoring.stream_shards = _streamer(run.moment)  # type: ignore[assignment]
    jobs.night.ray_session = _no_session  # type: ignore[assignment]
    if run.meeting:
        locking.NightLock = _NoLock  # type: ignore[assignment, misc]
        publishing.publish_run = _meeting(run)
    _arm(run.moment)
    sys.argv = ["bertmill", *run.arguments]
    jobs.cli.main()


def _arm(moment: str) -> None:
    publish, create, commit = publishing.publish_night, tables._create, tables.commit_actions
    if moment == "plan":
        scoring.score_pending = _die  # type: ignore[assignment]
    if moment == "quarantine":
        publishing.publish_night = _die
    if moment == "coverage":
        CoverageStore.write = _die  # type: ignore[method-assign]
    if moment == "before":
        publishing.publish_night = _only_quarantine(_die, publish)
    if moment == "create":
        tables._create = lambda *given: (create(*given), _die())[0]
    if moment == "during":
        tables.commit_actions = lambda *given: (_die_soon(), commit(*given))[1]
        publishing.publish_night = _only_quarantine(tables.publish_night, _with_commit(commit, publish))
    if moment == "after":
        publishing.publish_night = _only_quarantine(lambda *given: (publish(*given), _die())[0], publish)
    if moment == "current":
        publishing.publish_current = _die
    if moment == "listed":
        list_current = publishing.publish_current
        publishing.publish_current = lambda *given: (list_current(*given), _die())[0]
    if moment == "manifest":
        publishing._write_manifest = _die


def _only_quarantine(at_table: Callable[..., Any], at_quarantine: Callable[..., Any]) -> Callable[..., Any]:
    return lambda uri, *given: (at_quarantine if uri.endswith("_quarantine") else at_table)(uri, *given)


def _with_commit(commit: Callable[..., Any], publish: Callable[..., Any]) -> Callable[..., Any]:
    """The quarantine's own commit is left alone."""

    def undisturbed(*given: Any) -> Any:
        deadly, tables.commit_actions = tables.commit_actions, commit
        try:
            return publish(*given)
        finally:
            tables.commit_actions = deadly

    return undisturbed


def _die(*_given: Any, **_options: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_soon() -> None:
    """While the commit is under way: whether it is made is left to chance."""
    delay_s = int.from_bytes(os.urandom(1), "big") / 256 * 0.006
    threading.Timer(delay_s, _die).start()


def _streamer(moment: str) -> Callable[..., Iterator[pa.Table]]:
    def stream(shards: Sequence[Shard], factory: WorkerFactory, _pool: PoolOptions) -> Iterator[pa.Table]:
        worker = factory.build()
        for index, shard in enumerate(shards):
            if moment == "half" and index == (len(shards) + 1) // 2:
                _die()
            yield worker.process(shard)
        if moment == "all":
            _die()

    return stream


@contextlib.contextmanager
def _no_session(*_given: Any) -> Iterator[PoolOptions]:
    yield helpers.POOL


class _NoLock(contextlib.AbstractContextManager["_NoLock"]):
    """Every racer has the night, and none was at work before it."""

    def __init__(self, ledger: Ledger, _run_id: str) -> None:
        self.followed = locking.free_generation(ledger)

    def __exit__(self, *_given: object) -> None:
        return None

    def check_held(self) -> None:
        return None


def _meeting(run: Run) -> Callable[..., Any]:
    """Publish when every racer is ready to."""
    publish = publishing.publish_run

    def publish_together(*given: Any) -> Any:
        (Path(run.meeting) / str(os.getpid())).touch()
        while len(os.listdir(run.meeting)) < run.num_racers:
            time.sleep(0.001)
        return publish(*given)

    return publish_together


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
