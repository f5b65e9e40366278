"""A training's statuses for TensorBoard, MLflow and W&B. Needs their packages, only where they are asked for."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pipeline.errors import ComputeError, Problem, SpecError, first_line
from pipeline.extras import check_extra
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.status import TrainingStatus
from pipeline.registry.mlflow import connect_mlflow, find_experiment

_FIGURES = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share")
_RUN_TAG = "bertmill.run"
_LONGEST_VALUE = 500  # characters of a parameter that every MLflow server takes
_WANDB_ANSWERS_S = 20
_WANDB_ENDS_S = 60.0


def check_track(run: PreparedTraining, source: str) -> None:
    """Make sure that figures can be written where the spec asks for them.

    Raises:
        InputError: a package is missing.
        SpecError: TensorBoard's directory is no local one.
        ComputeError: the MLflow or W&B server does not answer, or there is no key for it.
    """
    place = run.spec.tensorboard
    if place is not None and "://" in place:
        raise SpecError(source, (Problem("tensorboard", f"holds {place!r}", "a directory of the first worker's disk"),))
    for name in ("tensorboard", "mlflow", "wandb"):
        if getattr(run.spec, name) is not None:
            check_extra("the spec asks for", name, {name: name})
    if run.spec.mlflow is not None:
        _check_mlflow(run.spec.mlflow)
    if run.spec.wandb is not None and os.environ.get("WANDB_MODE", "online") == "online":
        _check_wandb()


def _check_mlflow(place: str) -> None:
    try:
        find_experiment(connect_mlflow(place))
    except Exception as error:
        raise ComputeError(f"mlflow: {place} cannot be used: {first_line(error)}", "check the address") from None


def _check_wandb() -> None:
    import wandb

    try:
        wandb.Api(timeout=_WANDB_ANSWERS_S)
    except Exception as error:
        remedy = "set WANDB_API_KEY (and WANDB_BASE_URL for a server of your own), or WANDB_MODE=offline"
        raise ComputeError(f"wandb: no figures can be sent: {first_line(error)}", remedy) from None


class _Writer(Protocol):
    """One place that figures go to."""

    def write(self, figures: dict[str, float], step: int) -> None: ...

    def close(self, is_whole: bool) -> None: ...


class Tracker:
    """Writes to whatever the spec asks for, as long as a `with` block lasts; on rank 0 only."""

    def __init__(self, run: PreparedTraining) -> None:
        self._writers: list[_Writer] = []
        if run.spec.tensorboard is not None:
            self._writers.append(_EventFiles(Path(run.spec.tensorboard) / run.run_name))
        if run.spec.mlflow is not None:
            self._writers.append(_Careful("mlflow", _MlflowRun(run, run.spec.mlflow)))
        if run.spec.wandb is not None:
            self._writers.append(_Careful("wandb", _WandbRun(run, run.spec.wandb)))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close(is_whole=kind is None)

    def add(self, status: TrainingStatus) -> None:
        """Write a status."""
        figures = {f"training/{name}": float(getattr(status, name)) for name in _FIGURES}
        figures |= {f"validation/{name}": value for name, value in (status.validation or {}).items()}
        for writer in self._writers:
            writer.write(figures, status.step)


class _Careful:
    """A writer whose failures are said once and fail no training."""

    def __init__(self, name: str, writer: _Writer) -> None:
        self._name, self._writer = name, writer
        self._is_lost = False

    def write(self, figures: dict[str, float], step: int) -> None:
        self._try(lambda: self._writer.write(figures, step))

    def close(self, is_whole: bool) -> None:
        self._try(lambda: self._writer.close(is_whole))

    def _try(self, work: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            work()
        except Exception as error:
            self._is_lost = True
            logging.getLogger(__name__).warning("%s: no more figures are sent: %s", self._name, error)


class _EventFiles:
    """TensorBoard's, in one directory; what earlier attempts wrote of later steps is not shown any more."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def write(self, figures: dict[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, is_whole: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _MlflowRun:
    """One MLflow run for all attempts of a training."""

    def __init__(self, run: PreparedTraining, place: str) -> None:
        self._training, self._place = run, place
        self._client: Any = None
        self._run_id = ""

    def write(self, figures: dict[str, float], step: int) -> None:
        if self._client is None:
            self._client = connect_mlflow(self._place)
            self._run_id = self._find_run()
            self._client.update_run(self._run_id, status="RUNNING")
        for name, value in figures.items():
            self._client.log_metric(self._run_id, name.replace("@", "_at_"), value, step=step)

    def close(self, is_whole: bool) -> None:
        if self._client is not None:
            self._client.set_terminated(self._run_id, "FINISHED" if is_whole else "FAILED")

    def _find_run(self) -> str:
        """The run that an earlier attempt made, or a new one with the recipe as its parameters."""
        experiment, name = find_experiment(self._client), self._training.run_name
        found = self._client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        made = self._client.create_run(experiment, run_name=name, tags={_RUN_TAG: name})
        for field, value in self._training.recipe.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            self._client.log_param(made.info.run_id, field, shown[:_LONGEST_VALUE])
        return str(made.info.run_id)


class _WandbRun:
    """One W&B run for all attempts of a training; where it is sent, and with what key, W&B's own variables say."""

    def __init__(self, run: PreparedTraining, project: str) -> None:
        self._training = run
        self._entity, _, self._project = project.rpartition("/")
        self._run: Any = None

    def write(self, figures: dict[str, float], step: int) -> None:
        if self._run is None:
            self._run = self._start()
        # W&B's own steps never go back, as a run does that goes on from a checkpoint.
        self._run.log({**figures, "step": step})

    def close(self, is_whole: bool) -> None:
        if self._run is None:
            return
        import wandb

        self._run.finish(exit_code=0 if is_whole else 1)
        wandb.teardown()  # `finish` comes back before its process has written all; a worker may be ended right after

    def _start(self) -> Any:
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, finish_timeout=_WANDB_ENDS_S
        )
        name = self._training.run_name
        run = wandb.init(
            entity=self._entity or None,
            project=self._project,
            id=name,
            name=name,
            resume="allow",
            config=self._training.recipe,
            settings=settings,
        )
        run.define_metric("*", step_metric="step")
        return run
