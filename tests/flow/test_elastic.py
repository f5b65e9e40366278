"""Three ranks, then two, then three: the batches of one rank alone, its losses and its weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.flow.elastic_ranks import EPOCHS, NUM_ROWS, STEPS_PER_EPOCH, UNDISTURBED, run_attempts
from tests.patience import PATIENCE_S
from tests.recording import whole_steps
from tests.rules.sources import ROOT

NUM_STEPS = EPOCHS * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alone")
    run_attempts(directory, UNDISTURBED, rank=0)
    return directory


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(tmp_path_factory.mktemp("disturbed"))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(tmp_path_factory.mktemp("resumed"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(tmp_path_factory.mktemp("sharded"))


def run_ranks(directory: Path) -> Path:
    """The attempts of the directory's name."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [
        sys.executable,
        "-m",
        "tests.flow.elastic_ranks",
        str(directory),
        directory.name.rstrip("0123456789"),
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return directory


def test_the_attempts_are_what_they_are_meant_to_be(disturbed: Path) -> None:
    steps = whole_steps(disturbed)
    done = {attempt: sorted(step for step, of in steps if of == attempt) for attempt in (0.0, 1.0, 2.0)}
    assert done == {0.0: [*range(20)], 1.0: [*range(10, 30)], 2.0: [*range(30, NUM_STEPS)]}
    assert [steps[done[attempt][0], attempt].num_ranks for attempt in done] == [3, 2, 3]


def test_every_step_has_the_rows_of_an_undisturbed_run(disturbed: Path, alone: Path) -> None:
    expected = {step: whole.rows for (step, _), whole in whole_steps(alone).items()}
    assert sorted(expected) == list(range(NUM_STEPS))
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)
        assert sorted(row for step in steps for row in expected[step]) == list(range(NUM_ROWS))
    steps = whole_steps(disturbed)
    assert {key: whole.rows for key, whole in steps.items()} == {key: expected[key[0]] for key in steps}


def test_losses_and_gradients_are_those_of_an_undisturbed_run(disturbed: Path, alone: Path) -> None:
    expected = {step: whole for (step, _), whole in whole_steps(alone).items()}
    steps = whole_steps(disturbed)
    for (step, attempt), whole in steps.items():
        assert whole.loss == pytest.approx(expected[step].loss, rel=0, abs=1e-6), (step, attempt)
        assert whole.grad_norm == pytest.approx(expected[step].grad_norm, rel=1e-5), (step, attempt)


def test_weights_are_those_of_an_undisturbed_run(disturbed: Path, alone: Path) -> None:
    weights = [weights_of(disturbed, 2, rank) for rank in range(3)]
    assert all(np.array_equal(weights[0][name], weights[rank][name]) for name in weights[0] for rank in (1, 2))
    assert_near(weights[0], weights_of(alone, 0, 0))


def test_three_ranks_that_go_on_end_with_exactly_the_same_losses_and_weights(resumed: Path) -> None:
    """Two ranks have but one order in which to add up; three have several."""
    steps = whole_steps(resumed)
    assert sorted(step for step, attempt in steps if attempt == 1) == list(range(10, NUM_STEPS))
    for step in range(10, NUM_STEPS):
        assert steps[step, 1.0].loss == steps[step, 0.0].loss, step
        assert steps[step, 1.0].grad_norm == steps[step, 0.0].grad_norm, step
    first, second = weights_of(resumed, 0, 0), weights_of(resumed, 1, 0)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def weights_of(directory: Path, attempt: int, rank: int) -> dict[str, np.ndarray]:
    return dict(np.load(directory / f"weights-{attempt}-{rank}.npz"))


def assert_near(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """All but keys' biases: they change no attention, so Adam walks them along the rounding of gradients that are 0."""
    assert found.keys() == expected.keys()
    compared = {name: value for name, value in expected.items() if not name.endswith(".key.bias")}
    assert len(compared) > len(expected) - 5
    for name, value in compared.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_ranks_that_hold_a_part_of_the_weights_train_those_of_one_that_holds_all(sharded: Path, alone: Path) -> None:
    expected = {step: whole for (step, _), whole in whole_steps(alone).items()}
    steps = {step: whole for (step, attempt), whole in whole_steps(sharded).items() if attempt == 0}
    assert sorted(steps) == list(range(NUM_STEPS))
    for step, whole in steps.items():
        assert (whole.rows, whole.num_ranks) == (expected[step].rows, 2)
        assert whole.loss == pytest.approx(expected[step].loss, rel=0, abs=1e-6), step
        assert whole.grad_norm == pytest.approx(expected[step].grad_norm, rel=1e-5), step
    for rank in range(2):
        assert_near(weights_of(sharded, 0, rank), weights_of(alone, 0, 0))


@pytest.mark.slow
def test_a_sharded_run_that_is_resumed_ends_with_exactly_the_same_weights(sharded: Path) -> None:
    first, second = weights_of(sharded, 0, 0), weights_of(sharded, 1, 0)
    assert min(step for step, attempt in whole_steps(sharded) if attempt == 1) == 10
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_other_ranks_and_whole_weights(sharded: Path, alone: Path) -> None:
    steps = whole_steps(sharded)
    done = {attempt: sorted(step for step, of in steps if of == attempt) for attempt in (2.0, 3.0, 4.0)}
    assert done == {2.0: [*range(10, NUM_STEPS)], 3.0: [*range(10, 20)], 4.0: [*range(20, NUM_STEPS)]}
    assert [steps[done[attempt][0], attempt].num_ranks for attempt in done] == [1, 3, 2]
    for attempt in (2, 4):
        assert_near(weights_of(sharded, attempt, 0), weights_of(alone, 0, 0))
