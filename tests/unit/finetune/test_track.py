"""Event files that TensorBoard's own reader reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
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
