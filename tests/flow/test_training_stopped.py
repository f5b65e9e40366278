"""A real `bertmill finetune` on Ray that is asked to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.run import _POLL_S
from pipeline.finetune.spec import FinetuneSpec
from tests.flow import helpers
from tests.flow.slow import output_of
from tests.patience import PATIENCE_S
from tests.tiny import make_encoder, write_corpus


def wait_for_checkpoint(work: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the first checkpoint is complete; the process must still be at work then."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if list(work.glob("run-*/checkpoint_*/COMPLETE")):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"ended ({process.poll()}) or too slow: {process.communicate()[0]}")


def make_spec(root: Path, name: str) -> FinetuneSpec:
    """Long enough that something can happen to it; every epoch ends with a checkpoint."""
    if not (root / "encoder").exists():
        make_encoder(root / "encoder")
        write_corpus(root / "train", rows_per_file=200)
        write_corpus(root / "validation", num_files=1, seed=1)
    raw = {
        "task": "text-classification",
        "model": str(root / "encoder"),
        "data": {"train": str(root / "train"), "validation": str(root / "validation")},
        "output": str(root / name),
        "max_length": 32,
        "training": {"epochs": 20, "batch_rows": 16, "learning_rate": 1e-3},
        "checkpoint": {"every_s": 0.5},
        "compute": {"device": "cpu", "precision": "fp32", "cpus_per_worker": 1},
    }
    return FinetuneSpec.model_validate(raw)


def write_spec(root: Path, spec: FinetuneSpec) -> str:
    path = root / "finetune.yaml"
    path.write_text(spec.model_dump_json(exclude_unset=True))  # JSON is YAML
    return str(path)


def losses(spec: FinetuneSpec) -> dict[int, float]:
    """The loss up to each logged step, over the batches since the one before."""
    (log,) = Path(spec.work_uri).glob("run-*/metrics.jsonl")
    return {line["step"]: line["loss"] for line in map(json.loads, log.read_text().splitlines())}


def undisturbed_losses(root: Path) -> dict[int, float]:
    spec = make_spec(root, "undisturbed")
    train_alone(prepare_training(spec, "spec.yaml"), num_threads=1)
    return losses(spec)


def assert_same_curve(found: dict[int, float], expected: dict[int, float]) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[step] for step in expected], list(expected.values()), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_sigterm_saves_first_and_the_same_command_goes_on(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "stopped")
    command = [sys.executable, "-m", "jobs.finetune", write_spec(tmp_path, spec)]
    process = subprocess.Popen(
        command, cwd=helpers.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_checkpoint(Path(spec.work_uri), process)
    time.sleep(2 * _POLL_S)  # until the driver has heard of a step: before that it ends at once
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, output
    assert "a checkpoint was saved" in output
    assert "Traceback" not in output
    again = output_of(command, helpers.REPOSITORY)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_curve(losses(spec), undisturbed_losses(tmp_path))


def wait_for_work(titles: tuple[str, ...], process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until one of Ray's workers below a process bears one of the titles; all that is below it by then."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any(f"ray::{title}" in " ".join(child.cmdline()) for title in titles):
                    return below
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"ended ({process.poll()}) or too slow: {process.communicate()[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("job", ["finetune", "suite", "tune"])
def test_sigterm_is_heard_while_ray_works_for_a_training_or_a_study(job: str, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "long").model_dump(mode="json", exclude_unset=True)
    spec["training"]["epochs"] = 4000
    part = {name: value for name, value in spec.items() if name not in ("output", "compute", "checkpoint")}
    study: dict[str, Any] = {"output": str(tmp_path / "study"), "compute": {"precision": "fp32"}}
    raw = {
        "finetune": spec,
        "suite": {"runs": [{"name": "one", "finetune": part, "test": {"uri": str(tmp_path / "validation")}}], **study},
        "tune": {"finetune": part, "space": {"training.learning_rate": {"choice": [1e-3]}}, "trials": 1, **study},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(raw[job]))  # JSON is YAML
    process = subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", str(path)],
        cwd=helpers.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    below = wait_for_work(("RayTrainWorker", "_run_cell", "ImplicitFunc", "_train_trial"), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, output
    assert output.endswith("error: stopped by SIGTERM\n  -> run the same command again: it goes on where it stopped\n")
    assert "Traceback" not in output
    assert "WARNING" not in output
    _, alive = psutil.wait_procs(below, timeout=PATIENCE_S)
    assert alive == [], "Ray's processes must end with the job"
