"""Figures that TensorBoard's own reader, MLflow's own client and W&B's own records read back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import ComputeError, InputError
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.track import Tracker, check_track
from tests.patience import PATIENCE_S
from tests.rules.sources import ROOT
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
    with Tracker(run) as first:
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
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    local = prepare(tmp_path, encoder_directory, tensorboard=str(tmp_path / "events"))
    with pytest.raises(InputError, match="not installed here"):
        check_track(local, "spec.yaml")


def test_mlflow_reads_one_run_of_all_attempts(tmp_path: Path, encoder_directory: Path, mlflow_client: Any) -> None:
    run = prepare(tmp_path, encoder_directory, mlflow=str(tmp_path / "mlruns"), training={"epochs": 7})
    check_track(run, "spec.yaml")
    with contextlib.suppress(RuntimeError), Tracker(run) as tracker:
        tracker.add(status(10, 0.5))
        raise RuntimeError("a lost worker")
    experiment = mlflow_client.get_experiment_by_name("bertmill")
    (found,) = mlflow_client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    with Tracker(run) as tracker:
        tracker.add(status(20, 0.4, validation={"recall@10": 0.75}))
    (found,) = mlflow_client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (run.run_name, "FINISHED")
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


def records_of(path: Path) -> Iterator[Any]:
    """W&B's own records in a file of LevelDB's log format: blocks of 32 KiB, a header of 7 bytes before each piece."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, piece = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        piece += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece of one
            record = Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


@pytest.fixture(scope="module")
def told_by_attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """From a process of its own: W&B speaks with its service through a socket, which unit tests may not open."""
    directory = tmp_path_factory.mktemp("wandb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(directory), "WANDB_DIR": str(directory)}
    command = [sys.executable, "-m", "tests.unit.finetune.wandb_attempts", str(directory)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "files": str(directory / "wandb")}


@pytest.mark.slow
def test_wandb_reads_one_run_of_all_attempts(told_by_attempts: dict[str, str]) -> None:
    first, second = (list(records_of(path)) for path in sorted(Path(told_by_attempts["files"]).rglob("*.wandb")))
    for records in (first, second):
        (made,) = [record.run for record in records if record.HasField("run")]
        assert (made.run_id, made.entity, made.project) == (told_by_attempts["run_name"], "team", "reviews")
        config = {item.key: json.loads(item.value_json) for item in made.config.update}
        assert (config["training.epochs"], config["task"]) == (7, "text-classification")
    logged = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in (*first, *second)
        if record.HasField("history")
    ]
    assert [(line["step"], line["training/loss"]) for line in logged] == [(20, 0.5), (10, 0.4)]
    assert logged[1]["validation/recall@10"] == 0.75
    codes = [[record.exit.exit_code for record in records if record.HasField("exit")] for records in (first, second)]
    assert codes == [[1], [0]]


@pytest.mark.slow
def test_a_wandb_server_that_does_not_answer_is_said(told_by_attempts: dict[str, str]) -> None:
    assert told_by_attempts["unreachable"].startswith("wandb: no figures can be sent: Failed to verify credentials")


def test_wandb_without_a_key_is_said_before_anything_starts(
    tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path, encoder_directory, wandb="reviews")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ComputeError, match="wandb: no figures can be sent: No API key configured") as caught:
        check_track(run, "spec.yaml")
    assert "WANDB_MODE=offline" in caught.value.remedy


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "team/"])
def test_a_name_that_is_no_project_is_refused(tmp_path: Path, encoder_directory: Path, name: str) -> None:
    with pytest.raises(ValidationError, match=r"wandb\n.*String should match pattern"):
        prepare(tmp_path, encoder_directory, wandb=name)
