"""Every error bertmill raises on purpose.

The tree below is the whole public surface. Each error says what happened and what to do about it, crosses
process boundaries by pickle unchanged, and carries the exit status a job ends with.

    BertmillError
    ├── InputError                 the user can mend it; exit 2
    │   ├── SpecError              a spec field is wrong (carries every problem found)
    │   ├── CorpusError            an input path, column or Parquet file
    │   │   └── CorruptFileError   a file that is not readable Parquet
    │   ├── ModelError             a model directory or bundle
    │   ├── StorageDeniedError     credentials or permissions
    │   ├── SeveralErrors          more than one of these, found in one go
    │   ├── ComputeError           hardware or cluster that is not there
    │   └── OutputTakenError       the output already holds something else
    ├── InterruptedRunError        asked to stop (SIGTERM); finished work is kept; exit 75
    ├── TransientStorageError      the network or the store, from the first look on; retried, then exit 75 (run again)
    ├── ClusterLostError           a cluster that runs the job gives no answer; exit 75 (run again to follow it)
    ├── NightTakenError            another run is at work on the night; nothing was done; exit 0
    │   └── OtherNightTakenError   a snapshot's run is at work on another night; nothing was done; exit 75 (run again)
    ├── NightsTakenError           so it was with nights of a range, the others are done; exit 75
    ├── StorageFullError           no room on the disk or in the quota; exit 75
    ├── ShardDeadlineError         a shard took too long, three times; finished work is kept; exit 75
    ├── ShardLostError             a shard's process ended, ten times; finished work is kept; exit 75
    ├── WorkerLostError            a worker's process ended while it started, five times; exit 75
    ├── RayStartError              a local Ray did not come up in its time; exit 75
    ├── CommitConflictError        another publisher committed first; the table is re-read
    ├── TooManyBadRowsError        quarantine above `max_bad_fraction`; nothing was published; exit 3
    ├── FilesSkippedError          the work is done, but corrupt files were left out as the spec allows; exit 6
    ├── GateError                  a model did not pass the checks of a promotion; exit 7
    ├── DriftError                 the night is published, and too far from the last one; exit 8
    ├── AccountingError            rows_in != scored + quarantined; nothing was published; exit 4
    └── TrainingError              training stopped on its own numbers or lost its workers; exit 5
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

ResultT = TypeVar("ResultT")

EXIT_INPUT = 2
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on where it stopped


def first_line(error: Exception) -> str:
    """An error of others in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def name_some(names: Sequence[str], most: int) -> str:
    """The first names of many, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class BertmillError(Exception):
    """Base of the tree.

    Args:
        message: What happened, with the value that was found and what was expected.
        remedy: What the reader can do about it; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[BertmillError], tuple[object, ...]]:
        return type(self), self.args

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message


class InputError(BertmillError):
    """Something the user gave is wrong; running again unchanged would fail again."""

    exit_code = EXIT_INPUT


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: the field, what it holds, what was expected, what to do (may be empty)."""

    field: str
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.field}: {self.found}" + (f"; expected {self.expected}" if self.expected else "")
        return f"{line}\n  -> {self.remedy}" if self.remedy else line


class SpecError(InputError):
    """A spec cannot be run; every problem that could be found is listed at once.

    Args:
        source: The spec's path.
        problems: Every problem found, in field order.
    """

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{source}: {len(problems)} {noun}")
        self.source = source
        self.problems = problems
        self.args = (source, problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"- {problem}" for problem in self.problems)])


class SeveralErrors(InputError):
    """Independent checks that failed together.

    Args:
        errors: What each of them said.
    """

    def __init__(self, errors: tuple[InputError, ...]) -> None:
        super().__init__(f"{len(errors)} problems")
        self.errors = errors
        self.args = (errors,)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"- {error}" for error in self.errors)])


class Checks:
    """Runs checks that do not depend on each other, so that the user hears of all problems at once, each once."""

    def __init__(self) -> None:
        self._failures: list[InputError] = []

    def run(self, check: Callable[[], ResultT]) -> ResultT | None:
        """The check's result, or None if it failed; `raise_failures` must follow before results are used."""
        try:
            return check()
        except InputError as failure:
            if str(failure) not in map(str, self._failures):
                self._failures.append(failure)
            return None

    def raise_failures(self) -> None:
        """Raise the one failure as it is, several together, none not at all."""
        if len(self._failures) == 1:
            raise self._failures[0]
        if self._failures:
            raise SeveralErrors(tuple(self._failures))


class CorpusError(InputError):
    """An input path, column or Parquet file cannot be used."""


class CorruptFileError(CorpusError):
    """A file of the corpus was read from the store, and is not readable Parquet."""


class ModelError(InputError):
    """A model directory or bundle cannot be used."""


class StorageDeniedError(InputError):
    """The store answered, and refused: wrong credentials, no permission, no such bucket."""


class ComputeError(InputError):
    """The hardware or the cluster asked for is not there."""


class OutputTakenError(InputError):
    """The output location already holds something that bertmill did not write."""


class InterruptedRunError(BertmillError):
    """The process was asked to stop; what is finished is kept, and the same command goes on."""

    exit_code = EXIT_RESUMABLE


class Stopped(BaseException):
    """What a signal's handler raises; no error, so that nobody's `except Exception` takes it for a failure of its own.

    Ray Data and transformers go on after those; the handler's own `with` block turns it into the error.
    """

    def __init__(self, error: InterruptedRunError) -> None:
        super().__init__(str(error))
        self.error = error


class TransientStorageError(BertmillError):
    """The store or the network failed in a way that may pass, at the very start of a job as much as later."""

    exit_code = EXIT_RESUMABLE


class ClusterLostError(BertmillError):
    """The cluster that was given the job gives no answer, or not the one asked for; the job may be going on."""

    exit_code = EXIT_RESUMABLE


class NightTakenError(BertmillError):
    """Another run holds the night: it does the work, so there is nothing wrong with doing none."""

    exit_code = 0


class OtherNightTakenError(NightTakenError):
    """Another run holds the whole snapshot for another night: nobody does this one."""

    exit_code = EXIT_RESUMABLE


class NightsTakenError(BertmillError):
    """Other runs hold nights of a range; the others are done, and whether those will be is not known."""

    exit_code = EXIT_RESUMABLE


class StorageFullError(BertmillError):
    """There is no room left where something had to be written."""

    exit_code = EXIT_RESUMABLE


class ShardDeadlineError(BertmillError):
    """A shard was not done within `compute.shard_deadline_s`, in several processes one after the other."""

    exit_code = EXIT_RESUMABLE


class ShardLostError(BertmillError):
    """The process at work on a shard ended before it was done, again and again."""

    exit_code = EXIT_RESUMABLE


class WorkerLostError(BertmillError):
    """The process of a worker ended before it was ready for its first shard, again and again."""

    exit_code = EXIT_RESUMABLE


class RayStartError(BertmillError):
    """A local Ray did not come up in the time that Ray gives itself: too much else runs on the machine, as a rule."""

    exit_code = EXIT_RESUMABLE


class CommitConflictError(BertmillError):
    """Another publisher committed first; re-read the table before deciding anything."""

    exit_code = EXIT_RESUMABLE


class TooManyBadRowsError(BertmillError):
    """More rows were quarantined than the spec's `max_bad_fraction` allows."""

    exit_code = 3


class FilesSkippedError(BertmillError):
    """Everything else was done, but corrupt files were left out because the spec says so."""

    exit_code = 6


class GateError(BertmillError):
    """A model did not pass what a promotion asked of it; nothing was promoted."""

    exit_code = 7


class DriftError(BertmillError):
    """The night is published, and further from the last one than `report.fail` allows."""

    exit_code = 8


class AccountingError(BertmillError):
    """Rows in are not rows scored plus rows quarantined: a bug or a corpus that moved underneath."""

    exit_code = 4


class TrainingError(BertmillError):
    """Training stopped: a non-finite loss, or workers lost more often than the spec allows."""

    exit_code = 5
