"""A shard that never finishes: its process is ended, so that another one tries it, and the tries are counted.

A hung call cannot be stopped from Python, only its process can. Ray then starts another one and hands it the same
shard, for ever if nobody counts. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.errors import EXIT_RESUMABLE, ShardDeadlineError, ShardLostError

if TYPE_CHECKING:
    from pipeline.corpus.shards import Shard

MAX_OVERDUE = 3  # tries of a shard that may pass the deadline
MAX_BEGUN = 10  # tries of a shard whose process may end, whatever ended it
GRACE_S = 60.0  # for an overdue process to say so, where it can
_STDERR = 2
_SHOWN_FILES = 3


@dataclass(frozen=True, slots=True)
class Tries:
    """How often an unfinished shard was begun, and how many of these passed the deadline."""

    num_begun: int = 0
    num_overdue: int = 0


class TryBook:
    """The tries of the shards under way in one run."""

    def __init__(self) -> None:
        self._tries: dict[str, Tries] = {}

    def begin(self, shard: str) -> Tries:
        """Count a try; returns all of the shard's, this one included."""
        before = self._tries.get(shard, Tries())
        self._tries[shard] = replace(before, num_begun=before.num_begun + 1)
        return self._tries[shard]

    def note_overdue(self, shard: str) -> None:
        """The try under way passed the deadline."""
        before = self._tries.get(shard, Tries())
        self._tries[shard] = replace(before, num_overdue=before.num_overdue + 1)

    def end(self, shard: str) -> None:
        """The shard is done: forget it, so that the book holds what is under way and not every shard."""
        self._tries.pop(shard, None)


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
    if tries.num_begun > MAX_BEGUN:
        raise ShardLostError(
            f"shard {shard.name} was begun {MAX_BEGUN} times, and each time its process ended: {_describe(shard)}",
            "finished shards are kept: look at the workers' logs for a crash or for memory running out, give workers "
            "more memory or set corpus.shard_rows lower, then run the same command again",
        )


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
