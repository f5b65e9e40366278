from __future__ import annotations

import signal

import pytest

from jobs.session import stopping_on_sigterm
from pipeline.errors import Stopped, TransientStorageError
from pipeline.finetune.run import _find_cause, _stopping_on_sigterm


class FakeWatch:
    def __init__(self, has_begun: bool) -> None:
        self._has_begun = has_begun
        self.num_asked = 0

    def has_begun(self) -> bool:
        return self._has_begun

    def ask_to_stop(self) -> None:
        self.num_asked += 1


def test_the_first_sigterm_ends_a_training_that_no_worker_has_begun() -> None:
    watch = FakeWatch(has_begun=False)
    with stopping_on_sigterm(), pytest.raises(Stopped, match="SIGTERM"), _stopping_on_sigterm(watch):
        signal.raise_signal(signal.SIGTERM)
    assert watch.num_asked == 0


def test_the_first_sigterm_asks_workers_and_the_second_ends() -> None:
    watch = FakeWatch(has_begun=True)
    with stopping_on_sigterm(), _stopping_on_sigterm(watch):
        signal.raise_signal(signal.SIGTERM)
        assert watch.num_asked == 1
        with pytest.raises(Stopped, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
    assert watch.num_asked == 1


class FakeWorkerGroupError(Exception):
    """As Ray Train tells, after its last attempt, what ended each rank."""

    def __init__(self, worker_failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:")
        self.worker_failures = worker_failures


def test_the_error_of_ours_is_found_among_those_of_all_ranks() -> None:
    ours = TransientStorageError("no answer", "try again")
    assert _find_cause(FakeWorkerGroupError({0: RuntimeError("Connection closed by peer"), 1: ours})) is ours
    assert _find_cause(FakeWorkerGroupError({0: RuntimeError("Connection closed by peer")})) is None
