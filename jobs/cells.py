"""The cells of a study as Ray tasks, side by side; one that fails stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from jobs.cluster import ray_session
from pipeline.config import ComputeConfig, PoolOptions
from pipeline.errors import ComputeError, TrainingError
from pipeline.studies.records import Cell
from pipeline.telemetry import ProgressDisplay
from pipeline.waiting import wait_for


def run_cells(title: str, cells: Sequence[Cell], pool: PoolOptions, cpus_per_cell: int) -> dict[str, str]:
    """Run cells in their order, as many at once as the pool has cores for; needs a running Ray.

    Returns:
        Name -> reason, of those that failed.

    Raises:
        ComputeError: no machine has the cores that one cell asks for.
    """
    import ray

    check_room(cpus_per_cell, "cell")
    task = ray.remote(num_cpus=cpus_per_cell, num_gpus=pool.gpus_per_worker, max_retries=1)(_run_cell)
    slots = max(1, int(pool.num_workers * pool.cpus_per_worker) // cpus_per_cell)
    queue, running, failures = iter(cells), dict[Any, Cell](), dict[str, str]()
    with ProgressDisplay(title, len(cells), "cells") as display:
        for num_done in range(1, len(cells) + 1):
            running |= {task.remote(cell, cpus_per_cell): cell for cell in islice(queue, slots - len(running))}
            (done,), _ = wait_for(partial(ray.wait, list(running), num_returns=1))
            cell = running.pop(done)
            try:
                note = ray.get(done)
            except Exception as error:
                cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
                note = failures[cell.name] = f"{type(cause).__name__}: {cause}"
            display.update(num_done, f"{cell.name}: {note}")
    return failures


def check_room(num_cpus: int, subject: str) -> None:
    """Refuse what would wait for ever; needs a running Ray.

    Raises:
        ComputeError: no machine has the cores that one subject, such as a cell, asks for.
    """
    import ray

    room = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    if num_cpus > room:
        raise ComputeError(f"{num_cpus} CPUs are asked for each {subject}; the largest machine has {room}", "ask less")


def raise_failures(subjects: str, failures: Mapping[str, str], num_all: int) -> None:
    """End a study some of whose parts failed.

    Raises:
        TrainingError: naming every failed part and why.
    """
    if failures:
        shown = "".join(f"\n- {name}: {reason}" for name, reason in failures.items())
        remedy = f"mend what is said, then run the same command again: finished {subjects} are kept"
        raise TrainingError(f"{len(failures)} of {num_all} {subjects} failed:{shown}", remedy)


@dataclass(frozen=True)
class Study:
    """What is to be run of a study, and on what.

    Attributes:
        title: What it is called while it runs.
        cells: All of them, each with whether it is done.
        compute: The pool.
        address: The Ray cluster; None for a local one.
        cpus_per_cell: Cores of one.
    """

    title: str
    cells: Sequence[tuple[Cell, bool]]
    compute: ComputeConfig
    address: str | None
    cpus_per_cell: int


def finish_cells(study: Study, write_report: Callable[[], str]) -> None:
    """Run the cells that are not done, then write and print the report, whatever failed.

    Raises:
        ComputeError: no machine has the cores that one cell asks for.
        TrainingError: naming every failed cell and why.
    """
    pending = [cell for cell, is_done in study.cells if not is_done]
    print(f"{len(study.cells)} cells, of which {len(study.cells) - len(pending)} are already done")
    failures: dict[str, str] = {}
    if pending:
        with ray_session(study.compute, study.address) as pool:
            failures = run_cells(study.title, pending, pool, study.cpus_per_cell)
    print(write_report())
    raise_failures("cells", failures, len(study.cells))


def _run_cell(cell: Cell, num_threads: int) -> str:
    return cell.run(num_threads)
