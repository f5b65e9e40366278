from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import InterruptedRunError, TrainingError
from pipeline.finetune import loop
from pipeline.finetune.loop import ValidationRows, Wish, evaluate, train
from pipeline.finetune.status import TrainingStatus, status_record
from pipeline.finetune.step import StepResult
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.losses import Emphasis
from tests.tiny import LABELS, make_network
from tests.unit.finetune.training import (
    Notes,
    context_for,
    job_for,
    same_weights,
    token_data,
    validation_rows,
    weights_of,
)

RECIPE = {"batch_rows": 8, "learning_rate": 3e-3, "warmup_fraction": 0.1}


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 116)


@pytest.fixture(scope="module")
def validation(tokenizer: Any) -> ValidationRows:
    return validation_rows(tokenizer, 30, seed=1)


def with_dropout(seed: int = 0) -> Any:
    network = make_network(seed=seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return network


def test_a_learnable_set_is_learnt(data: TokenData, validation: ValidationRows, tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    job = job_for(context_for(data, **RECIPE), epochs=6, validation=validation)
    before = evaluate(job)[""]
    after = train(job, notes.hooks())[""]
    losses = [status.loss for status in notes.statuses]
    assert losses[-1] < 0.5 * losses[0]
    assert after.evaluation.metrics["macro_f1"] > max(0.9, before.evaluation.metrics["macro_f1"])
    assert after.evaluation.metrics["loss"] < before.evaluation.metrics["loss"]


def test_statuses_come_every_ten_steps_and_after_each_epoch(
    data: TokenData, validation: ValidationRows, tmp_path: Path
) -> None:
    notes = Notes(tmp_path)
    train(job_for(context_for(data, **RECIPE), epochs=2, validation=validation), notes.hooks())
    assert [(status.step, status.epoch) for status in notes.statuses] == [(10, 0), (15, 0), (20, 1), (30, 1)]
    assert {status.num_steps for status in notes.statuses} == {30}
    assert [status.step for status in notes.statuses if status.validation] == [15, 30]
    assert all(0 <= status.padding_share < 1 and status.tokens_per_s > 0 for status in notes.statuses)
    assert notes.statuses[0].learning_rate == pytest.approx(3e-3 * 21 / 27)
    record = status_record(notes.statuses[0])
    assert record["step"] == 10
    assert "validation" not in record


def test_state_is_saved_after_each_epoch_and_when_it_is_time(data: TokenData, tmp_path: Path) -> None:
    rarely, often = Notes(tmp_path / "rarely"), Notes(tmp_path / "often")
    train(job_for(context_for(data, **RECIPE), epochs=2), rarely.hooks())
    train(job_for(context_for(data, **RECIPE), epochs=2, every_s=1e-9), often.hooks())
    assert (len(rarely.checkpoints), len(often.checkpoints)) == (2, 4)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_resumed_run_ends_with_exactly_the_same_weights(
    data: TokenData, validation: ValidationRows, tmp_path: Path, position: int
) -> None:
    """Checkpoints 0 and 2 are in the middle of an epoch; dropout is on, so its seeding counts too."""
    network, notes = with_dropout(), Notes(tmp_path)
    job = job_for(context_for(data, network, **RECIPE), epochs=2, validation=validation, every_s=1e-9)
    figures = train(job, notes.hooks())
    resumed, again = with_dropout(seed=9), Notes(tmp_path / "again")
    second = job_for(context_for(data, resumed, **RECIPE), epochs=2, validation=validation)
    torch.manual_seed(1234)
    figures_again = train(second, again.hooks(restore=notes.checkpoints[position]))
    assert again.statuses[0].step > (10, 15, 20)[position]
    assert same_weights(weights_of(resumed), weights_of(network))
    assert figures_again.keys() == figures.keys() == {""}
    assert figures_again[""].evaluation.metrics == figures[""].evaluation.metrics
    assert figures_again[""].learned == figures[""].learned


def test_a_run_that_was_complete_is_only_evaluated(data: TokenData, validation: ValidationRows, tmp_path: Path) -> None:
    network, notes = make_network(), Notes(tmp_path)
    figures = train(job_for(context_for(data, network, **RECIPE), validation=validation), notes.hooks())
    restored, again = make_network(seed=9), Notes(tmp_path / "again")
    job = job_for(context_for(data, restored, **RECIPE), validation=validation)
    figures_again = train(job, again.hooks(restore=notes.checkpoints[-1]))
    assert (again.statuses, again.checkpoints) == ([], [])
    assert same_weights(weights_of(restored), weights_of(network))
    assert figures_again.keys() == figures.keys() == {""}
    assert figures_again[""].evaluation.metrics == figures[""].evaluation.metrics
    assert figures_again[""].learned == figures[""].learned


def test_a_run_may_end_within_an_epoch(data: TokenData, tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    train(job_for(context_for(data, min_steps=17, **RECIPE)), notes.hooks())
    assert [status.step for status in notes.statuses] == [10, 15, 17]
    assert len(notes.checkpoints) == 2


def test_evaluation_changes_nothing_about_training(data: TokenData, validation: ValidationRows, tmp_path: Path) -> None:
    plain, evaluated = with_dropout(), with_dropout()
    train(job_for(context_for(data, plain, **RECIPE), epochs=2), Notes(tmp_path / "a").hooks())
    train(job_for(context_for(data, evaluated, **RECIPE), epochs=2, validation=validation), Notes(tmp_path).hooks())
    assert same_weights(weights_of(plain), weights_of(evaluated))


def test_evaluation_looks_at_every_row_once(data: TokenData, validation: ValidationRows) -> None:
    network = make_network()
    result = evaluate(job_for(context_for(data, network), validation=validation))[""]
    hits = 0
    for row, label in enumerate(validation.targets.to_pylist()):
        ids = torch.from_numpy(validation.examples.tokens.row(row).astype(np.int64))[None]
        with torch.no_grad():
            hits += int(LABELS[network(input_ids=ids).logits.argmax()] == label)
    assert result.evaluation.num_rows == len(validation.targets) == 30
    assert result.evaluation.metrics["accuracy"] == pytest.approx(hits / 30)


def test_without_validation_rows_there_are_no_figures(data: TokenData, tokenizer: Any, tmp_path: Path) -> None:
    none = evaluate(job_for(context_for(data), validation=validation_rows(tokenizer, 0)))[""]
    assert (none.evaluation.num_rows, none.evaluation.metrics) == (0, {})
    assert evaluate(job_for(context_for(data))) == {}
    assert train(job_for(context_for(data, **RECIPE)), Notes(tmp_path).hooks()) == {}


def test_a_loss_that_is_not_finite_stops_the_run(data: TokenData, tmp_path: Path) -> None:
    network, notes = make_network(), Notes(tmp_path)
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 0, whose batch holds:\n- training rows \d+(, \d+){7}\n"
    ) as caught:
        train(job_for(context_for(data, network, **RECIPE)), notes.hooks())
    assert "learning_rate" in caught.value.remedy
    assert notes.checkpoints == []


def test_the_first_step_that_is_not_finite_is_the_one_that_is_named(data: TokenData, tmp_path: Path) -> None:
    """One row's target lies far outside the classes' logits once its weight is infinite; earlier steps are sound."""
    job = job_for(context_for(data, make_network(), batch_rows=8, class_weights={"positive": 1.0}))
    bad = int(job.plan.batch(4)[3])
    (head,) = job.context.heads
    values = data.targets.values.copy()
    values[bad] = 2
    weights = torch.tensor([1.0, 1.0, float("inf")])
    only_bad = [row for row in range(len(values)) if values[row] == 2 and row != bad]
    values[only_bad] = 0
    broken = replace(
        head,
        data=TokenData(data.rows, replace(data.targets, values=values)),
        emphasis=Emphasis(0.0, weights),
    )
    job = replace(job, context=replace(job.context, heads=(broken,)), locate=lambda rows: [f"rows {sorted(rows)}"])
    with pytest.raises(TrainingError, match=r"the loss is (inf|nan) at step 4, whose batch holds:") as caught:
        train(job, Notes(tmp_path).hooks())
    assert f"- rows {sorted(job.plan.batch(4))}" in str(caught.value)


@pytest.mark.parametrize(
    ("learning_rate", "message"),
    [(1e38, "the update of step 0 left weights that are not finite"), (1e25, "outputs for 30 validation rows are not")],
)
def test_an_update_after_which_there_are_no_numbers_stops_the_run(
    data: TokenData, validation: ValidationRows, tmp_path: Path, learning_rate: float, message: str
) -> None:
    """No loss is computed from what the last update before an evaluation left."""
    recipe = {"batch_rows": 116, "learning_rate": learning_rate, "warmup_fraction": 0.0}
    with pytest.raises(TrainingError, match=message):
        train(job_for(context_for(data, **recipe), epochs=1, validation=validation), Notes(tmp_path).hooks())


def test_a_gradient_far_above_the_usual_is_remarked(data: TokenData, tmp_path: Path) -> None:
    network, notes = make_network(), Notes(tmp_path)
    job = job_for(context_for(data, network, batch_rows=8, learning_rate=1e-9, max_grad_norm=1.0))

    def report(status: TrainingStatus) -> None:
        notes.statuses.append(status)
        with torch.no_grad():
            network.classifier.weight.mul_(1000)

    train(job, replace(notes.hooks(), report=report))
    assert notes.statuses[0].remarks is None
    assert any("gradient norm" in remark for remark in notes.statuses[1].remarks or ())


def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_later(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_ASK_EVERY_S", 0.0)
    undisturbed, network = with_dropout(), with_dropout()
    train(job_for(context_for(data, undisturbed, **RECIPE), epochs=2), Notes(tmp_path / "u").hooks())
    notes, wishes = Notes(tmp_path), [Wish.GO_ON, Wish.STOP]
    hooks = replace(notes.hooks(), wish=lambda: wishes.pop(0))
    with pytest.raises(InterruptedRunError, match=r"stopped after step 15 of 30; a checkpoint was saved") as caught:
        train(job_for(context_for(data, network, **RECIPE), epochs=2), hooks)
    assert caught.value.exit_code == 75
    resumed = with_dropout(seed=9)
    train(
        job_for(context_for(data, resumed, **RECIPE), epochs=2),
        Notes(tmp_path / "again").hooks(restore=notes.checkpoints[-1]),
    )
    assert same_weights(weights_of(resumed), weights_of(undisturbed))


@dataclass
class SlowSteps:
    """A clock that goes on by the length of a step whenever one begins, and no other time."""

    step_s: float
    now_s: float = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        planned = loop._planned_step

        def slow_step(*given: Any) -> StepResult:
            self.now_s += self.step_s
            return planned(*given)

        monkeypatch.setattr(loop, "time", self)
        monkeypatch.setattr(loop, "_planned_step", slow_step)


@pytest.mark.parametrize(
    ("step_s", "asked_after"),
    [(0.05, []), (0.15, [15, 30]), (0.7, [10, 13, 16, 19, 22, 25, 28]), (5.0, [10, *range(11, 31)])],
)
def test_those_outside_are_asked_every_few_seconds_however_slow_steps_are(
    step_s: float, asked_after: list[int], data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked_s = SlowSteps(step_s), list[float]()
    clock.set_up(monkeypatch)
    hooks = replace(Notes(tmp_path).hooks(), wish=lambda: asked_s.append(clock.now_s) or Wish.GO_ON)
    train(job_for(context_for(data, **RECIPE), epochs=2), hooks)
    assert [round(at_s / step_s) for at_s in asked_s] == asked_after


def test_slow_steps_stop_at_once_when_asked_to_with_a_status_and_a_checkpoint(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, network, resumed = with_dropout(), with_dropout(), with_dropout(seed=9)
    train(job_for(context_for(data, undisturbed, **RECIPE), epochs=2), Notes(tmp_path / "u").hooks())
    notes, again, clock = Notes(tmp_path), Notes(tmp_path / "again"), SlowSteps(5.0)
    clock.set_up(monkeypatch)
    hooks = replace(notes.hooks(), wish=lambda: Wish.STOP if clock.now_s >= 12 * 5 else Wish.GO_ON)
    with pytest.raises(InterruptedRunError, match=r"stopped after step 12 of 30; a checkpoint was saved"):
        train(job_for(context_for(data, network, **RECIPE), epochs=2), hooks)
    assert [status.step for status in notes.statuses] == [10, 12]
    train(job_for(context_for(data, resumed, **RECIPE), epochs=2), again.hooks(restore=notes.checkpoints[-1]))
    assert again.statuses[0].step == 15
    assert same_weights(weights_of(resumed), weights_of(undisturbed))


def test_ranks_look_at_the_same_steps_by_the_clock_of_rank_0(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This rank's own clock has its step take 9 s, that of rank 0, which is summed into what it sees, 0.3 s."""
    clock = SlowSteps(9.0)
    clock.set_up(monkeypatch)
    monkeypatch.setattr(loop, "all_reduce", lambda values, _: values + torch.tensor([0.0, 0.0, 0.0, 0.3]))
    job = replace(job_for(context_for(data, world_size=2, **RECIPE)), rank=1)
    window = loop._Window(job, Notes(tmp_path).hooks(), ())
    clock.now_s += clock.step_s
    window.add(StepResult(0.5, 10, 12, 1.0))
    window.check(0)
    window.close(0, 1.0, {}, ())
    looked: list[int] = []
    monkeypatch.setattr(loop._Window, "ask_wish", lambda self: looked.append(len(self._results)) or Wish.GO_ON)
    for _ in range(9):
        window.add(StepResult(0.5, 10, 12, 1.0))
        window.ask_between()
    assert looked == [3, 6, 9]


def test_a_checkpoint_is_saved_when_it_is_wished(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_ASK_EVERY_S", 0.0)
    notes, wishes = Notes(tmp_path), [Wish.SAVE, Wish.GO_ON, Wish.STOP]
    train(job_for(context_for(data, min_steps=16, **RECIPE)), replace(notes.hooks(), wish=lambda: wishes.pop(0)))
    assert len(notes.checkpoints) == 3, "as wished after step 10, after the epoch, and at the end: nothing to stop"


def test_those_outside_are_asked_every_few_seconds_only(
    data: TokenData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def wish() -> Wish:
        asked.append(1)
        return Wish.GO_ON

    monkeypatch.setattr(loop, "_ASK_EVERY_S", 1e9)
    train(job_for(context_for(data, **RECIPE)), replace(Notes(tmp_path).hooks(), wish=wish))
    assert asked == []
