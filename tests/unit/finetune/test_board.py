from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.errors import (
    BertmillError,
    CorpusError,
    InterruptedRunError,
    StorageDeniedError,
    StorageFullError,
    TrainingError,
    TransientStorageError,
)
from pipeline.finetune.board import Board, Failure, find_permanent
from pipeline.finetune.status import TrainingStatus


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one rank, as Ray Train makes it before the first line of ours runs."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", [TrainingError, CorpusError, StorageDeniedError, InterruptedRunError])
def test_an_error_of_ours_that_another_attempt_cannot_mend_is_permanent_as_it_is(kind: type[BertmillError]) -> None:
    error = kind("so it is", "do this")
    found = find_permanent(error, 1)
    assert found is not None
    assert found.error is error


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError, ZeroDivisionError])
def test_an_error_of_code_or_data_is_permanent_and_tells_rank_kind_and_place(
    kind: type[Exception], group: None
) -> None:
    try:
        raise kind("no use for row 7")
    except Exception as error:
        found = find_permanent(error, 1)
    assert found is not None
    assert isinstance(found.error, TrainingError)
    assert found.error.message.startswith(f"training failed on rank 1: {kind.__name__}: ")
    assert "no use for row 7" in found.error.message
    assert 'raise kind("no use for row 7")' in found.trace


def test_no_memory_is_permanent_and_tells_what_to_lower(group: None) -> None:
    found = find_permanent(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"), 3)
    assert found is not None
    assert str(found.error) == (
        "training failed on rank 3: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
        "  -> lower training.micro_batch_tokens, or set training.gradient_checkpointing: true"
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection closed by peer"),
        dist.DistBackendError("NCCL error"),
        OSError("reset"),
        TransientStorageError("no answer"),
        StorageFullError("full"),
    ],
)
def test_what_may_pass_and_a_lost_peer_are_tried_again(error: Exception, group: None) -> None:
    assert find_permanent(error, 0) is None


def test_what_goes_wrong_once_the_group_is_taken_away_is_tried_again(group: None) -> None:
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="Default process group has not been initialized") as raised:
        dist.barrier()
    assert find_permanent(raised.value, 0) is None


def test_the_first_failure_stays_and_no_rank_begins_after_it() -> None:
    board, first = Board(), Failure(TrainingError("first"))
    assert [board.enter(0), board.enter(1)] == [True, True]
    board.leave(1, first)
    assert board.num_at_work() == 1
    board.leave(0, Failure(TrainingError("second")))
    assert [board.enter(0), board.enter(1)] == [False, False]
    assert board.failure() is first
    assert board.num_at_work() == 0


def test_ranks_that_are_lost_begin_again() -> None:
    board = Board()
    assert board.enter(0)
    board.leave(0, None)
    assert board.enter(0)
    assert board.failure() is None
    assert board.num_at_work() == 1


def test_a_run_that_was_asked_to_stop_is_not_begun_again() -> None:
    board = Board()
    assert board.enter(0)
    board.stop()
    assert not board.enter(0)
    failure = board.failure()
    assert failure is not None
    with pytest.raises(InterruptedRunError, match="stopped while lost workers were replaced"):
        raise failure.error


def test_remarks_are_read_once_however_many_statuses_came_between() -> None:
    """The driver looks now and then: what a fast run told at its first steps was on nobody's screen."""
    board = Board()
    assert board.read() is None
    for step, remarks in enumerate([("head fitted",), None, ("gradient far above the usual", "loss falls")]):
        board.post(TrainingStatus(step, 9, 0, 0.5, 0.0, 0.0, 1.0, 0.0, remarks=remarks))
    found = board.read()
    assert found is not None
    assert found.step == 2
    assert found.remarks == ("head fitted", "gradient far above the usual", "loss falls")
    again = board.read()
    assert again is not None
    assert (again.step, again.remarks) == (2, None)
