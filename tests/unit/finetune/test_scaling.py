"""Losses scaled for fp16: the same steps, overflows that are skipped, and the scale in checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import parse_spec
from pipeline.errors import TrainingError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.loop import train
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.step import StepContext, run_step
from pipeline.finetune.token_cache import TokenData
from tests.tiny import make_network, write_corpus
from tests.unit.finetune.training import Notes, context_for, job_for, same_weights, token_data, weights_of

BATCH = np.arange(3, 19)
RECIPE = {"batch_rows": 8, "learning_rate": 3e-3}
TOO_MUCH = 2.0**24


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 116)


def scaled(data: TokenData, seed: int = 0, **scaler: Any) -> StepContext:
    """A context in fp32, where a power of two changes no gradient, with a scaler nevertheless."""
    context = context_for(data, make_network(seed=seed), **RECIPE)
    return replace(context, scaler=torch.amp.GradScaler("cpu", **scaler))


def overflowing(data: TokenData, seed: int = 0, **scaler: Any) -> StepContext:
    """The same, with one gradient that goes through fp16, whose largest number is 65,504."""
    context = scaled(data, seed, **scaler)
    context.joined.network("").classifier.weight.register_hook(lambda gradient: gradient.half().float())
    return context


def test_a_scaled_loss_gives_the_same_step(data: TokenData) -> None:
    plain, with_scale = context_for(data, make_network(), **RECIPE), scaled(data)
    results = [
        run_step(context, make_optimizer(context.joined, context.config), BATCH, BATCH, seed=4)
        for context in (plain, with_scale)
    ]
    assert with_scale.scaler.get_scale() == 2.0**16
    assert results[0].loss == results[1].loss
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-6)
    expected, found = weights_of(plain.joined), weights_of(with_scale.joined)
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-7, rtol=1e-6, msg=name)


def test_an_overflow_changes_nothing_but_the_scale(data: TokenData) -> None:
    context = overflowing(data, init_scale=1.0)
    optimizer = make_optimizer(context.joined, context.config)
    assert not run_step(context, optimizer, BATCH, BATCH, seed=4).is_skipped
    before, moments = weights_of(context.joined), {key: dict(value) for key, value in optimizer.state.items()}
    moments = {key: {name: tensor.clone() for name, tensor in value.items()} for key, value in moments.items()}
    context = replace(context, scaler=torch.amp.GradScaler("cpu", init_scale=TOO_MUCH))
    result = run_step(context, optimizer, BATCH, BATCH, seed=5)
    assert result.is_skipped
    assert not np.isfinite(result.grad_norm)
    assert np.isfinite(result.loss)
    assert context.scaler.get_scale() == TOO_MUCH / 2
    assert same_weights(weights_of(context.joined), before)
    for key, value in moments.items():
        assert same_weights(dict(optimizer.state[key]), value), "a skipped step is none for AdamW either"


def test_a_resumed_run_skips_the_same_steps(data: TokenData, tmp_path: Path) -> None:
    """The scale doubles every three steps and overflows soon after, before and after the checkpoint."""
    scaler = {"init_scale": TOO_MUCH, "growth_interval": 3}
    whole, notes = overflowing(data, **scaler), Notes(tmp_path)
    train(job_for(whole, epochs=2, every_s=1e-9), notes.hooks())
    skipped = [remark for status in notes.statuses for remark in status.remarks or ()]
    assert any("overflowed at step 0: it was skipped" in remark for remark in skipped)
    assert len([remark for remark in skipped if "overflowed" in remark]) > 3
    assert all(np.isfinite(status.grad_norm) for status in notes.statuses)
    resumed, again = overflowing(data, seed=9, **scaler), Notes(tmp_path / "again")
    train(job_for(resumed, epochs=2), again.hooks(restore=notes.checkpoints[0]))
    assert same_weights(weights_of(resumed.joined), weights_of(whole.joined))
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    late = [remark for status in again.statuses for remark in status.remarks or ()]
    assert late == skipped[-len(late) :]
    assert len(late) > 0


def test_what_overflows_at_any_scale_stops_the_run(data: TokenData, tmp_path: Path) -> None:
    context = scaled(data, init_scale=4.0)
    context.joined.network("").classifier.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"the gradient's norm is (inf|nan) at step 2, whose batch holds"):
        train(job_for(context), Notes(tmp_path).hooks())


def test_a_run_without_a_scaler_takes_a_checkpoint_that_has_one(data: TokenData, tmp_path: Path) -> None:
    """`auto` may be fp16 on one machine and bf16 on the next."""
    notes = Notes(tmp_path)
    train(job_for(scaled(data), epochs=1, every_s=1e-9), notes.hooks())
    plain = context_for(data, make_network(seed=9), **RECIPE)
    train(job_for(plain, epochs=1), Notes(tmp_path / "again").hooks(restore=notes.checkpoints[0]))
    assert plain.scaler.state_dict() == {}


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
    ],
)
def test_fp16_learns(device: str, tmp_path: Path, encoder_directory: Path) -> None:
    write_corpus(tmp_path / "rows")
    data = {"train": str(tmp_path / "rows"), "validation": str(tmp_path / "rows")}
    raw = {
        "task": "text-classification",
        "model": str(encoder_directory),
        "data": data,
        "output": str(tmp_path / "bundle"),
        "training": {"epochs": 8, "batch_rows": 16, "learning_rate": 5e-3},
        "compute": {"device": device, "precision": "fp16"},
    }
    info = train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)[""]
    assert info.metrics["accuracy"] > 0.9
