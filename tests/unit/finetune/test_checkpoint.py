from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.finetune.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.parallel import gather_moments
from pipeline.finetune.step import run_step
from pipeline.finetune.token_cache import TokenData
from tests.tiny import make_network
from tests.unit.finetune.training import context_for, same_weights, token_data, weights_of


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 32)


class Run:
    """A network, its optimizer, and steps on fixed batches."""

    def __init__(self, data: TokenData, seed: int = 0) -> None:
        self.network = make_network(seed=seed)
        self._context = context_for(data, self.network, learning_rate=1e-2)
        self.joined = self._context.joined
        self.optimizer = make_optimizer(self.joined, self._context.config)

    def step(self, *numbers: int) -> None:
        for number in numbers:
            batch = np.arange(8 * number, 8 * number + 8)
            run_step(self._context, self.optimizer, batch, batch, seed=number)


@pytest.fixture
def saved(data: TokenData, tmp_path: Path) -> Path:
    run = Run(data)
    run.step(0, 1)
    save_checkpoint(
        tmp_path / "checkpoint", run.joined, gather_moments(run.optimizer, is_kept=True), Progress(2, "this run")
    )
    return tmp_path / "checkpoint"


def test_a_restored_run_goes_on_identically(data: TokenData, saved: Path) -> None:
    undisturbed, restored = Run(data), Run(data, seed=5)
    undisturbed.step(0, 1, 2, 3)
    progress = load_checkpoint(saved, restored.joined, restored.optimizer, "this run")
    restored.step(2, 3)
    assert progress == Progress(2, "this run")
    assert same_weights(weights_of(restored.network), weights_of(undisturbed.network))


def test_saving_does_not_disturb_the_run(data: TokenData, tmp_path: Path) -> None:
    saving, plain = Run(data), Run(data)
    for run in (saving, plain):
        run.step(0)
    save_checkpoint(tmp_path / "a", saving.joined, gather_moments(saving.optimizer, is_kept=True), Progress(1, "x"))
    for run in (saving, plain):
        run.step(1)
    assert same_weights(weights_of(saving.network), weights_of(plain.network))


def test_nothing_in_a_checkpoint_is_pickled(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"COMPLETE", "state.json", "weights.safetensors", "optimizer.safetensors"}


def shorten(name: str) -> Callable[[Path], object]:
    return lambda saved: (saved / name).write_bytes((saved / name).read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: (saved / "COMPLETE").unlink(),
        lambda saved: (saved / "COMPLETE").write_text('{"weights'),
        lambda saved: (saved / "optimizer.safetensors").unlink(),
        shorten("weights.safetensors"),
        shorten("optimizer.safetensors"),
        shorten("state.json"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_and_changes_nothing(
    data: TokenData, saved: Path, damage: Callable[[Path], object]
) -> None:
    damage(saved)
    run = Run(data, seed=5)
    before = weights_of(run.network)
    with pytest.raises(TrainingError, match="an incomplete checkpoint"):
        load_checkpoint(saved, run.joined, run.optimizer, "this run")
    assert same_weights(weights_of(run.network), before)


def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(data: TokenData, saved: Path) -> None:
    run = Run(data, seed=5)
    before = weights_of(run.network)
    with pytest.raises(TrainingError, match=r"a checkpoint of another run \(this run, this is other run\)"):
        load_checkpoint(saved, run.joined, run.optimizer, "other run")
    assert same_weights(weights_of(run.network), before)


def test_a_save_that_was_cut_short_leaves_no_complete_checkpoint(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(data)
    run.step(0)

    def die(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr(json, "dumps", die)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        save_checkpoint(
            tmp_path / "a", run.joined, gather_moments(run.optimizer, is_kept=True), Progress(1, "this run")
        )
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="an incomplete checkpoint"):
        load_checkpoint(tmp_path / "a", run.joined, run.optimizer, "this run")


def test_an_optimizer_without_moments_yet_can_be_saved(data: TokenData, tmp_path: Path) -> None:
    fresh, restored = Run(data), Run(data, seed=5)
    save_checkpoint(tmp_path / "a", fresh.joined, gather_moments(fresh.optimizer, is_kept=True), Progress(0, "x"))
    load_checkpoint(tmp_path / "a", restored.joined, restored.optimizer, "x")
    fresh.step(0)
    restored.step(0)
    assert same_weights(weights_of(restored.network), weights_of(fresh.network))


def test_learning_rates_come_from_the_spec_and_not_from_the_checkpoint(data: TokenData, saved: Path) -> None:
    run = Run(data)
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak_lr"] = 0.5
    load_checkpoint(saved, run.joined, run.optimizer, "this run")
    assert {group["peak_lr"] for group in run.optimizer.param_groups} == {0.5}
    moments = [state["exp_avg"] for state in run.optimizer.state.values()]
    assert all(isinstance(moment, torch.Tensor) and moment.dtype == torch.float32 for moment in moments)
