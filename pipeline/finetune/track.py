"""A training's statuses as TensorBoard and MLflow show them. Needs their packages, only where they are asked for."""

from __future__ import annotations

import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import ComputeError, InputError, Problem, SpecError
from pipeline.finetune.loop import TrainingStatus
from pipeline.finetune.prepare import PreparedTraining

_FIGURES = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "padding_share")
_EXPERIMENT = "bertmill"
_RUN_TAG = "bertmill.run"
_LONGEST_VALUE = 500  # characters of a parameter that every MLflow server takes


def check_track(run: PreparedTraining, source: str) -> None:
    """Make sure that figures can be written where the spec asks for them.

    Raises:
        InputError: a package is missing, or TensorBoard's directory is no local one.
        ComputeError: the MLflow server does not answer.
    """
    place = run.spec.tensorboard
    if place is not None and "://" in place:
        raise SpecError(source, (Problem("tensorboard", f"holds {place!r}", "a directory of the first worker's disk"),))
    for name in ("tensorboard", "mlflow"):
        if getattr(run.spec, name) is not None and find_spec(name) is None:
            raise InputError(f"the spec asks for {name}, not installed here", f"pip install 'bertmill[{name}]'")
    if run.spec.mlflow is None:
        return
    try:
        _find_experiment(_connect(run.spec.mlflow))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ComputeError(f"mlflow: {run.spec.mlflow} cannot be used: {reason}", "check the address") from None


class Tracker:
    """Writes to whatever the spec asks for; on rank 0 only."""

    def __init__(self, run: PreparedTraining) -> None:
        self._writers: list[_EventFiles | _MlflowRun] = []
        if run.spec.tensorboard is not None:
            self._writers.append(_EventFiles(Path(run.spec.tensorboard) / run.run_name))
        if run.spec.mlflow is not None:
            self._writers.append(_MlflowRun(run, run.spec.mlflow))

    def add(self, status: TrainingStatus) -> None:
        """Write a status."""
        figures = {f"training/{name}": float(getattr(status, name)) for name in _FIGURES}
        figures |= {f"validation/{name}": value for name, value in (status.validation or {}).items()}
        for writer in self._writers:
            writer.write(figures, status.step)


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


class _MlflowRun:
    """One MLflow run for all attempts of a training. A server that stops answering fails no training."""

    def __init__(self, run: PreparedTraining, place: str) -> None:
        self._training, self._place = run, place
        self._client: Any = None
        self._run_id = ""
        self._is_lost = False

    def write(self, figures: dict[str, float], step: int) -> None:
        if self._is_lost:
            return
        try:
            self._log(figures, step)
        except Exception as error:
            self._is_lost = True
            logging.getLogger(__name__).warning("mlflow: no more figures are sent: %s", error)

    def _log(self, figures: dict[str, float], step: int) -> None:
        if self._client is None:
            self._client = _connect(self._place)
            self._run_id = self._find_run()
        for name, value in figures.items():
            self._client.log_metric(self._run_id, name.replace("@", "_at_"), value, step=step)

    def _find_run(self) -> str:
        """The run that an earlier attempt made, or a new one with the recipe as its parameters."""
        experiment, name = _find_experiment(self._client), self._training.run_name
        found = self._client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        made = self._client.create_run(experiment, run_name=name, tags={_RUN_TAG: name})
        for field, value in self._training.recipe.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            self._client.log_param(made.info.run_id, field, shown[:_LONGEST_VALUE])
        return str(made.info.run_id)


def _connect(place: str) -> Any:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a directory is what needs neither server nor database
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=place if "://" in place else Path(place).as_uri())


def _find_experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)
