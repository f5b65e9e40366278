"""Figures that TensorBoard's own reader and MLflow's own client read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ComputeError, InputError
from pipeline.finetune.loop import TrainingStatus
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.track import Tracker, check_track
from tests.tiny import write_corpus


def prepare(directory: Path, encoder: Path, **changes: Any) -> PreparedTraining:
    write_corpus(directory / "train", num_files=1)
    raw = {"task": "text-classification", "model": str(encoder), "data": {"train": str(directory / "train")}}
    spec = FinetuneSpec.model_validate({**raw, "output": str(directory / "bundle"), **changes})
    return prepare_training(spec, "spec.yaml")


def status(step: int, loss: float, **changes: Any) -> TrainingStatus:
    return TrainingStatus(step, 20, 0, loss, 1e-4, 1.0, 100.0, 0.25, **changes)


def test_tensorboard_reads_what_was_written(tmp_path: Path, encoder_directory: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = prepare(tmp_path, encoder_directory, tensorboard=str(tmp_path / "events"))
    check_track(run, "spec.yaml")
    first = Tracker(run)
    first.add(status(10, 0.5))
    first.add(status(20, 0.4, validation={"accuracy": 0.75}))
    found = EventAccumulator(str(tmp_path / "events" / run.run_name)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("training/loss")] == [
        (10, 0.5),
        (20, pytest.approx(0.4)),
    ]
    assert [event.value for event in found.Scalars("validation/accuracy")] == [0.75]


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path, encoder_directory: Path) -> None:
    run = prepare(tmp_path, encoder_directory)
    check_track(run, "spec.yaml")
    before = sorted(tmp_path.rglob("*"))
    Tracker(run).add(status(10, 0.5))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_is_not_local_or_a_missing_package_is_said(
    tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = prepare(tmp_path, encoder_directory, tensorboard="s3://bucket/events")
    with pytest.raises(InputError, match="tensorboard: holds 's3://bucket/events'; expected a directory"):
        check_track(remote, "spec.yaml")
    monkeypatch.setattr("pipeline.finetune.track.find_spec", lambda name: None)
    local = prepare(tmp_path, encoder_directory, tensorboard=str(tmp_path / "events"))
    with pytest.raises(InputError, match="not installed here"):
        check_track(local, "spec.yaml")


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a directory; variables that bertmill sets are forgotten after the test."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, {"MLFLOW_ALLOW_FILE_STORE": "true"}.get(name, "0"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())


def test_mlflow_reads_one_run_of_all_attempts(tmp_path: Path, encoder_directory: Path, mlflow_client: Any) -> None:
    run = prepare(tmp_path, encoder_directory, mlflow=str(tmp_path / "mlruns"), training={"epochs": 7})
    check_track(run, "spec.yaml")
    Tracker(run).add(status(10, 0.5))
    again = Tracker(run)
    again.add(status(20, 0.4, validation={"recall@10": 0.75}))
    experiment = mlflow_client.get_experiment_by_name("bertmill")
    (found,) = mlflow_client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run.run_name
    history = mlflow_client.get_metric_history(found.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [(10, 0.5), (20, 0.4)]
    assert found.data.metrics["validation/recall_at_10"] == 0.75
    assert found.data.params["training.epochs"] == "7"
    assert found.data.params["task"] == "text-classification"


def test_another_training_is_another_mlflow_run(tmp_path: Path, encoder_directory: Path, mlflow_client: Any) -> None:
    for seed in (1, 2):
        run = prepare(tmp_path, encoder_directory, mlflow=str(tmp_path / "mlruns"), training={"seed": seed})
        Tracker(run).add(status(10, 0.5))
    experiment = mlflow_client.get_experiment_by_name("bertmill")
    assert len(mlflow_client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.usefixtures("mlflow_client")
def test_a_server_that_does_not_answer_is_said_before_and_fails_nothing_after(
    tmp_path: Path, encoder_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepare(tmp_path, encoder_directory, mlflow="http://127.0.0.1:9")
    with pytest.raises(ComputeError, match=r"mlflow: http://127\.0\.0\.1:9 cannot be used"):
        check_track(run, "spec.yaml")
    tracker = Tracker(run)
    tracker.add(status(10, 0.5))
    tracker.add(status(20, 0.5))
    assert [record.message.startswith("mlflow: no more figures are sent") for record in caplog.records] == [True]
