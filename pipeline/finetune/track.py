"""A training's statuses as TensorBoard shows them. Needs the package tensorboard, and only where it is asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem, SpecError
from pipeline.finetune.loop import TrainingStatus
from pipeline.finetune.prepare import PreparedTraining

_FIGURES = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share")


def check_track(run: PreparedTraining, source: str) -> None:
    """Make sure that TensorBoard's files can be written as the spec asks.

    Raises:
        InputError: the package is missing, or the directory is no local one.
    """
    place = run.spec.tensorboard
    if place is None:
        return
    if "://" in place:
        raise SpecError(source, (Problem("tensorboard", f"holds {place!r}", "a directory of the first worker's disk"),))
    if find_spec("tensorboard") is None:
        raise InputError("the spec asks for tensorboard, not installed here", "pip install 'bertmill[tensorboard]'")


class Tracker:
    """Writes event files into DIRECTORY/RUN; on rank 0 only. Without a directory it does nothing."""

    def __init__(self, run: PreparedTraining) -> None:
        self._place = None if run.spec.tensorboard is None else Path(run.spec.tensorboard) / run.run_name
        self._writer: Any = None

    def add(self, status: TrainingStatus) -> None:
        """Write a status; what earlier attempts wrote of later steps is not shown any more."""
        if self._place is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._place), purge_step=status.step)
        figures = {f"training/{name}": getattr(status, name) for name in _FIGURES}
        figures |= {f"validation/{name}": value for name, value in (status.validation or {}).items()}
        for name, value in figures.items():
            self._writer.add_scalar(name, value, status.step)
        self._writer.flush()
