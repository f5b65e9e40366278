"""One training by changing numbers of ranks. As a script: all of them, forked so that torch is imported once.

python -m tests.flow.elastic_ranks DIRECTORY disturbed|resumed|sharded
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pipeline.errors import InterruptedRunError
from pipeline.finetune import loop
from pipeline.finetune.loop import Wish, train
from pipeline.finetune.parallel import DataParallel, spread_network
from pipeline.finetune.token_cache import TokenData
from tests.recording import record_steps
from tests.tiny import make_tokenizer
from tests.unit.finetune.training import Notes, context_for, job_for, token_data, weights_of

NUM_ROWS, STEPS_PER_EPOCH, EPOCHS = 61, 16, 3  # an epoch's last step has one row: most ranks then have none
RECIPE = {"batch_rows": 4, "micro_batch_tokens": 30, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Attempt:
    """A part of the run: by how many ranks, from which checkpoint of which attempt, and when it is stopped.

    Steps end, and checkpoints are made, after each tenth step and each epoch: `num_stretches` of those.
    """

    num_ranks: int
    restore: tuple[int, int] | None = None
    num_stretches: int = sys.maxsize
    kind: DataParallel = "ddp"


UNDISTURBED = (Attempt(1),)
DISTURBED = (
    Attempt(3, None, 3),  # steps 0 to 19; a rank is lost, and with it all since step 10, in the middle of an epoch
    Attempt(2, (0, 0), 3),  # steps 10 to 29; the rank is back
    Attempt(3, (1, 2)),
)
RESUMED = (Attempt(3), Attempt(3, (0, 0)))  # once more from step 10 on
SHARDED = (
    Attempt(2, kind="fsdp"),
    Attempt(2, (0, 0), kind="fsdp"),  # once more from step 10 on
    Attempt(1, (0, 0)),  # the same on one rank
    Attempt(3, (0, 0), 2, kind="fsdp"),  # steps 10 to 19 on three ranks; then two, each of which holds all
    Attempt(2, (3, 1)),
)


def run_attempts(directory: Path, attempts: Sequence[Attempt], rank: int) -> None:
    """This rank's part of a run, each attempt with networks of its own, as its own process would have them."""
    tokenizer = make_tokenizer(directory / f"tokenizer-{rank}")
    data = token_data(tokenizer, NUM_ROWS)
    for number, attempt in enumerate(attempts):
        if rank >= attempt.num_ranks:
            continue
        with contextlib.ExitStack() as stack:
            if attempt.num_ranks > 1:
                stack.enter_context(_meeting(directory / f"meeting-{number}", rank, attempt.num_ranks))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(loop, "_ASK_EVERY_S", 0.0)
            record_steps(directory, float(number), "", patch.setattr)
            _run_attempt(directory, number, attempt, rank, data)


def _run_attempt(directory: Path, number: int, attempt: Attempt, rank: int, data: TokenData) -> None:
    """Its network is gone when it returns: one that outlives its group can wait for that group's thread for ever."""
    context = context_for(data, None, attempt.num_ranks, **RECIPE)
    if attempt.num_ranks > 1:
        spread = spread_network(context.network, torch.device("cpu"), attempt.num_ranks, attempt.kind)
        context = replace(context, network=spread)
    with contextlib.suppress(InterruptedRunError):
        _train(directory, number, attempt, replace(job_for(context, epochs=EPOCHS, every_s=1e-9), rank=rank))
    weights = {name: value.numpy() for name, value in weights_of(context.joined).items()}
    np.savez(directory / f"weights-{number}-{rank}.npz", **weights)


def _train(directory: Path, number: int, attempt: Attempt, job: loop.LoopJob) -> None:
    notes = Notes(directory / f"attempt-{number}" / f"rank-{job.rank}")
    restore = None
    if attempt.restore is not None:
        of, checkpoint = attempt.restore
        restore = directory / f"attempt-{of}" / "rank-0" / f"checkpoint-{checkpoint}"
    num_asked = 0

    def wish() -> Wish:
        nonlocal num_asked
        num_asked += 1
        return Wish.STOP if num_asked == attempt.num_stretches else Wish.GO_ON

    train(job, replace(notes.hooks(restore), wish=wish))


@contextlib.contextmanager
def _meeting(file: Path, rank: int, num_ranks: int) -> Iterator[None]:
    wait = timedelta(seconds=90)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=num_ranks, timeout=wait)
    try:
        yield
    finally:
        dist.destroy_process_group()


def main(directory: Path, attempts: Sequence[Attempt]) -> int:
    """Run all attempts; returns how many ranks failed."""
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")  # before anything of torch has run
    ranks = [fork.Process(target=run_attempts, args=(directory, attempts, rank)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return sum(process.exitcode != 0 for process in ranks)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), {"disturbed": DISTURBED, "resumed": RESUMED, "sharded": SHARDED}[sys.argv[2]]))
