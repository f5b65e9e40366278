"""Training on a real cluster that loses a node: which rows each worker trained on, step by step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from tests.flow import helpers, lost_nodes
from tests.flow.slow import output_of
from tests.recording import WholeStep, record_steps, whole_steps
from tests.tiny import make_encoder, write_corpus

NUM_ROWS, BATCH_ROWS, EPOCHS = 600, 16, 2
NUM_STEPS = -(-NUM_ROWS // BATCH_ROWS) * EPOCHS
Steps = dict[tuple[int, float], WholeStep]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lost-nodes")
    make_encoder(directory / "encoder")
    write_corpus(directory / "train", num_files=3, rows_per_file=NUM_ROWS // 3)
    write_corpus(directory / "validation", num_files=1, seed=1)
    return directory


def make_spec(root: Path, name: str, workers: object, **checkpoint: float) -> FinetuneSpec:
    """By default a checkpoint at every occasion: each tenth step, and the end of each epoch."""
    raw = {
        "task": "text-classification",
        "model": str(root / "encoder"),
        "data": {"train": str(root / "train"), "validation": str(root / "validation")},
        "output": str(root / name),
        "max_length": 32,
        "training": {"epochs": EPOCHS, "batch_rows": BATCH_ROWS, "learning_rate": 1e-3},
        "checkpoint": {"every_s": 0.01, **checkpoint},
        "compute": {"device": "cpu", "precision": "fp32", "cpus_per_worker": 2, "workers": workers},
    }
    return FinetuneSpec.model_validate(raw)


def run(fate: str, spec: FinetuneSpec, num_nodes: int) -> Steps:
    """A whole story; returns every step of every attempt."""
    path = Path(f"{spec.output}.yaml")
    path.write_text(spec.model_dump_json(exclude_unset=True))  # JSON is YAML
    command = [sys.executable, "-m", "tests.flow.lost_nodes", fate, spec.work_uri, str(num_nodes), str(path)]
    done = output_of(command, helpers.REPOSITORY)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert "bundle " in done.stdout
    return whole_steps(Path(spec.work_uri))


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Steps:
    """One worker, no Ray, nothing happens; once, as all that is recorded below a folder counts as one run."""
    spec = make_spec(root, "alone", 1)
    with pytest.MonkeyPatch.context() as patch:
        record_steps(Path(spec.work_uri), 0.0, "here", patch.setattr)
        train_alone(prepare_training(spec, "spec.yaml"), num_threads=2)
    steps = whole_steps(Path(spec.work_uri))
    assert sizes(steps) == [(1, 0, NUM_STEPS - 1)]
    return steps


def assert_same_rows(steps: Steps, expected: Steps) -> None:
    """Every step that any attempt finished had the undisturbed run's rows, and every step was finished."""
    rows = {step: whole.rows for (step, _), whole in expected.items()}
    assert sorted(rows) == list(range(NUM_STEPS))
    assert {step for step, _ in steps} == set(rows)
    assert {key: whole.rows for key, whole in steps.items()} == {key: rows[key[0]] for key in steps}


def losses(steps: Steps) -> list[float]:
    """Each step's loss, of the last attempt that did it."""
    return [steps[max(key for key in steps if key[0] == step)].loss for step in range(NUM_STEPS)]


def read_log(root: Path, name: str) -> list[dict[str, Any]]:
    """A run's metrics.jsonl."""
    (log,) = root.glob(f"{name}.work/run-*/metrics.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def sizes(steps: Steps) -> list[tuple[int, int, int]]:
    """Each attempt's number of workers, its first and its last step."""
    attempts = sorted({attempt for _, attempt in steps})
    found = []
    for attempt in attempts:
        done = [step for step, of in steps if of == attempt]
        found.append((steps[done[0], attempt].num_ranks, min(done), max(done)))
    return found


@pytest.mark.slow
def test_a_lost_node_that_is_replaced_changes_no_bit(root: Path, undisturbed: Steps) -> None:
    steps = run("replaced", make_spec(root, "replaced", 2), num_nodes=2)
    before = run("nothing", make_spec(root, "nothing", 2), num_nodes=2)
    assert sizes(before) == [(2, 0, NUM_STEPS - 1)]
    assert sizes(steps) == [(2, 0, lost_nodes.FIRST_HOLD - 1), (2, 20, NUM_STEPS - 1)]
    assert_same_rows(steps, before)
    assert_same_rows(steps, undisturbed)
    assert losses(steps) == losses(before)


@pytest.mark.slow
def test_a_notice_is_answered_with_a_checkpoint(root: Path, undisturbed: Steps) -> None:
    """None was due before the end of the epoch."""
    steps = run("announced", make_spec(root, "announced", 2, every_s=1e6), num_nodes=2)
    assert sizes(steps) == [(2, 0, lost_nodes.AFTER_NOTICE - 1), (2, 30, NUM_STEPS - 1)]
    assert_same_rows(steps, undisturbed)


@pytest.mark.slow
def test_training_goes_on_with_fewer_workers_and_grows_again(root: Path, undisturbed: Steps) -> None:
    steps = run("shrinks_and_grows", make_spec(root, "elastic", [1, 3]), num_nodes=3)
    first, second = lost_nodes.FIRST_HOLD, lost_nodes.SECOND_HOLD
    assert sizes(steps) == [(3, 0, first - 1), (2, 20, second - 1), (3, 40, NUM_STEPS - 1)]
    assert_same_rows(steps, undisturbed)
    np.testing.assert_allclose(losses(steps), losses(undisturbed), rtol=0, atol=1e-6)
    logged = read_log(root, "elastic")
    assert [line["num_workers"] for line in logged] == [2 if 20 < line["step"] <= 40 else 3 for line in logged]
    found, expected = ({line["step"]: line["loss"] for line in log} for log in (logged, read_log(root, "alone")))
    assert found == pytest.approx(expected, rel=0, abs=1e-6)
