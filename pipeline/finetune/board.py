"""What ranks and the driver tell each other beside the exchange of gradients: how far a run is, and what ended it.

Knows nothing of Ray, under which the board is an actor.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace

import torch.distributed as dist

from pipeline.encoder.model import is_out_of_memory
from pipeline.errors import EXIT_RESUMABLE, BertmillError, InterruptedRunError, TrainingError, first_line
from pipeline.finetune.status import TrainingStatus

_OF_CODE_OR_DATA = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Failure:
    """What ended a run for good, and the traceback of where."""

    error: BertmillError
    trace: str = ""


def find_permanent(error: Exception, rank: int) -> Failure | None:
    """What of a rank's error another attempt would meet again; None for what may pass, and for a lost peer's echo.

    Torch tells of a lost peer by a RuntimeError, and the teardown of a group makes others of every kind.
    """
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, BertmillError):
        is_over = isinstance(error, InterruptedRunError) or error.exit_code != EXIT_RESUMABLE
        return Failure(error, trace) if is_over else None
    found = f"training failed on rank {rank}: {type(error).__name__}: {first_line(error)}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
        remedy = "lower training.micro_batch_tokens, or set training.gradient_checkpointing: true"
        return Failure(TrainingError(found, remedy), trace)
    if isinstance(error, _OF_CODE_OR_DATA) and not _was_torn_down():
        return Failure(TrainingError(found, "--debug shows where; mend it and run the same command again"), trace)
    return None


def _was_torn_down() -> bool:
    """Whether this process is to end anyway: Ray Train takes the group away from ranks that are still at work."""
    return dist.is_available() and not dist.is_initialized()


class Board:
    """Who is at work, where the run stands, whether it is to stop, and the first failure that ended it for good."""

    def __init__(self) -> None:
        self._at_work: set[int] = set()
        self._status: TrainingStatus | None = None
        self._unread: list[str] = []
        self._failure: Failure | None = None
        self._is_to_stop = False

    def enter(self, rank: int) -> bool:
        """A rank begins an attempt; whether there is anything left to do."""
        if self._is_to_stop and self._failure is None:  # only workers that have begun are asked: these are new ones
            self._failure = Failure(
                InterruptedRunError(
                    "stopped while lost workers were replaced",
                    "run the same command again: it goes on from the last checkpoint",
                )
            )
        if self._failure is None:
            self._at_work.add(rank)
        return self._failure is None

    def leave(self, rank: int, failure: Failure | None) -> None:
        """A rank is done with an attempt, well or not."""
        self._at_work.discard(rank)
        self._failure = self._failure or failure

    def num_at_work(self) -> int:
        """Ranks that have begun and not ended."""
        return len(self._at_work)

    def stop(self) -> None:
        """Ask for a checkpoint and the end."""
        self._is_to_stop = True

    def is_to_stop(self) -> bool:
        """Whether it was asked for."""
        return self._is_to_stop

    def post(self, status: TrainingStatus) -> None:
        """Tell how far the run is."""
        self._status = status
        self._unread += status.remarks or ()

    def read(self) -> TrainingStatus | None:
        """What was told last, with all remarks that nobody has read yet: statuses come faster than they are read."""
        remarks, self._unread = tuple(self._unread), []
        return None if self._status is None else replace(self._status, remarks=remarks or None)

    def failure(self) -> Failure | None:
        """What ended the run, if anything has."""
        return self._failure
