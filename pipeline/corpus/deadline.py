"""A shard that never finishes: its process is ended, so that another one tries it, and the tries are counted.

A hung call cannot be stopped from Python, only its process can. Ray then starts another one and hands it the same
shard, for ever if nobody counts. A process that was killed because memory ran out is told from one that crashed: to try
again helps less, and what to do about it is another thing. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.errors import EXIT_RESUMABLE, ShardDeadlineError, ShardLostError, WorkerLostError

if TYPE_CHECKING:
    from pipeline.corpus.shards import Shard

MAX_OVERDUE = 3  # tries of a shard that may pass the deadline
MAX_STARVED = 3  # tries of a shard, or starts of a worker, that may end because memory ran out
MAX_BEGUN = 10  # tries of a shard whose process may end, whatever ended it
MAX_STARTED = 5  # the same of a worker that starts
GRACE_S = 60.0  # for an overdue process to say so, where it can
_STDERR = 2
_MEMORY_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat")
_SHOWN_FILES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a try runs: the machine, the process by the name that its keeper has for it, and the machine's
    `count_memory_kills` when it began.
    """

    host: str
    process: str
    num_memory_kills: int


@dataclass(frozen=True, slots=True)
class Tries:
    """How often an unfinished shard (or the start of a worker) was begun, how many of these tries passed the deadline,
    and how many ended because memory ran out.
    """

    num_begun: int = 0
    num_overdue: int = 0
    num_starved: int = 0


class TryBook:
    """The tries of the shards under way in one run, and of its workers' starts, each by a name.

    Args:
        died_of_memory: Whether whoever keeps the processes ended one of this name for want of memory.
    """

    def __init__(self, died_of_memory: Callable[[str], bool] = lambda _process: False) -> None:
        self._died_of_memory = died_of_memory
        self._tries: dict[str, Tries] = {}
        self._places: dict[str, Place] = {}

    def begin(self, name: str, place: Place) -> Tries:
        """Count a try; returns all under this name, this one included."""
        before, lost = self._tries.get(name, Tries()), self._places.get(name)
        starved = lost is not None and (self._was_killed(lost, place) or self._died_of_memory(lost.process))
        self._places[name] = place
        self._tries[name] = replace(
            before, num_begun=before.num_begun + 1, num_starved=before.num_starved + int(starved)
        )
        return self._tries[name]

    @staticmethod
    def _was_killed(lost: Place, place: Place) -> bool:
        """Whether the kernel has killed for memory since, where a lost try was; from elsewhere that is not known."""
        return lost.host == place.host and lost.num_memory_kills < place.num_memory_kills

    def note_overdue(self, name: str) -> None:
        """The try under way passed the deadline."""
        before = self._tries.get(name, Tries())
        self._tries[name] = replace(before, num_overdue=before.num_overdue + 1)
        self._places.pop(name, None)

    def note_starved(self, name: str) -> None:
        """The try under way could not get the memory it asked for."""
        before = self._tries.get(name, Tries())
        self._tries[name] = replace(before, num_starved=before.num_starved + 1)
        self._places.pop(name, None)

    def end(self, name: str) -> None:
        """It is done: forget it, so that the book holds what is under way and not every shard."""
        self._tries.pop(name, None)
        self._places.pop(name, None)


def check_tries(shard: Shard, tries: Tries, deadline_s: float) -> None:
    """Refuse a shard that was tried often enough.

    Raises:
        ShardDeadlineError: too many tries passed the deadline.
        ShardLostError: too many tries ended with their process.
    """
    if tries.num_overdue >= MAX_OVERDUE:
        raise ShardDeadlineError(
            f"shard {shard.name} was not done within {deadline_s:g} s, {tries.num_overdue} times: {_describe(shard)}",
            "finished shards are kept: raise compute.shard_deadline_s if these rows need longer, else look at the "
            "stacks in the workers' logs and at the files, then run the same command again",
        )
    if tries.num_starved >= MAX_STARVED:
        raise ShardLostError(
            f"shard {shard.name} ran out of memory, {tries.num_starved} times: {_describe(shard)}",
            "finished shards are kept: give workers more memory (larger machines, or fewer workers on each), or set "
            "corpus.shard_rows or corpus.shard_bytes lower (which scores finished shards again), then run the same "
            "command again",
        )
    if tries.num_begun > MAX_BEGUN:
        raise ShardLostError(
            f"shard {shard.name} was begun {MAX_BEGUN} times, and each time its process ended: {_describe(shard)}",
            "finished shards are kept: look at the workers' logs for a crash, then run the same command again",
        )


def check_starts(tries: Tries, deadline_s: float) -> None:
    """Refuse to start a worker that was started often enough.

    Raises:
        WorkerLostError: too many starts passed the deadline, or ended with their process.
    """
    if tries.num_overdue >= MAX_OVERDUE:
        raise WorkerLostError(
            f"a worker was not ready within {deadline_s:g} s, {tries.num_overdue} times",
            "look at the stacks in the workers' logs, then run the same command again",
        )
    if tries.num_starved >= MAX_STARVED:
        raise WorkerLostError(
            f"a worker ran out of memory while it loaded the model, {tries.num_starved} times",
            "give workers more memory (larger machines, or fewer workers on each), then run the same command again",
        )
    if tries.num_begun > MAX_STARTED:
        raise WorkerLostError(
            f"a worker was started {MAX_STARTED} times, and each time its process ended while it loaded the model",
            "look at the workers' logs for a crash, then run the same command again",
        )


def count_memory_kills() -> int:
    """A number that grows whenever the kernel kills a process of this machine or container because memory ran out."""
    total = 0
    for path in _MEMORY_KILLS:
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", Path(path).read_text(encoding="ascii"), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total


class Watchdog:
    """Ends this process if the block takes longer than the deadline; the stacks go to stderr first.

    Args:
        deadline_s: Seconds.
        note_overdue: Says so elsewhere, before the end; may fail, must not take longer than the grace.
        grace_s: Where not even the watching thread gets to run (native code that keeps the interpreter's lock), the
            process ends this much later without saying so.
        end_process: `os._exit`: no handler and no destructor of a hung process can be trusted to return.
    """

    def __init__(
        self,
        deadline_s: float,
        note_overdue: Callable[[], None],
        grace_s: float = GRACE_S,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._deadline_s, self._note_overdue, self._grace_s = deadline_s, note_overdue, grace_s
        self._end_process = end_process
        self._timer = threading.Timer(deadline_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Watchdog:
        faulthandler.dump_traceback_later(self._deadline_s + self._grace_s, exit=True, file=_STDERR)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self._note_overdue()
        faulthandler.dump_traceback(file=_STDERR)
        self._end_process(EXIT_RESUMABLE)


def _describe(shard: Shard) -> str:
    """Its rows by file, the first few files of many."""
    shown = [f"{piece.file.uri} rows {piece.start_row}-{piece.stop_row - 1}" for piece in shard.pieces[:_SHOWN_FILES]]
    more = len(shard.pieces) - len(shown)
    return ", ".join(shown) + (f" and {more} more files" if more else "")
