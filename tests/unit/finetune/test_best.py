"""keep_best, patience and evaluate_every_steps: the figures, the loop, and a run that is cut and resumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import SpecError, TrainingError
from pipeline.finetune import loop
from pipeline.finetune.best import check_best, read_figure
from pipeline.finetune.checkpoint import Standing
from pipeline.finetune.loop import Judgement, Judgements, LoopJob, evaluate, train
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks import TASKS
from tests.tiny import make_network
from tests.unit.finetune.training import (
    LEARNED,
    TASK,
    Notes,
    context_for,
    job_for,
    same_weights,
    token_data,
    validation_rows,
    weights_of,
)

RECIPE = {"batch_rows": 8, "learning_rate": 3e-3, "keep_best": "auto"}


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 40)


def job(data: TokenData, network: Any, tokenizer: Any, epochs: int = 6, **recipe: Any) -> LoopJob:
    context = context_for(data, network, **{**RECIPE, **recipe})
    return job_for(context, epochs=epochs, validation=validation_rows(tokenizer, 12, seed=1))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes evaluations give these macro F1s, one after the other, and notes the weights that were judged."""
    judged: list[dict[str, torch.Tensor]] = []

    def script(figures: Sequence[float]) -> list[dict[str, torch.Tensor]]:
        left = list(figures)

        def judge(of: LoopJob) -> Judgements:
            judged.append(weights_of(of.context.joined))
            evaluation = replace(evaluate(of)[""].evaluation, metrics={"macro_f1": left.pop(0)})
            return {"": Judgement(evaluation, LEARNED)}

        monkeypatch.setattr(loop, "evaluate", judge)
        return judged

    return script


def test_the_best_weights_are_kept_and_not_the_last(
    data: TokenData, tokenizer: Any, tmp_path: Path, scripted: Any
) -> None:
    network = make_network()
    judged = scripted([0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.55])
    result = train(job(data, network, tokenizer), Notes(tmp_path).hooks())
    assert len(judged) == 7, "six epochs, and the best weights once more for the bundle's figures"
    assert same_weights(judged[-1], judged[1]), "an equal figure is not better"
    assert not same_weights(judged[5], judged[1])
    assert result[""].evaluation.metrics == {"macro_f1": 0.55}


def test_without_keep_best_the_last_weights_stay(
    data: TokenData, tokenizer: Any, tmp_path: Path, scripted: Any
) -> None:
    network = make_network()
    judged = scripted([0.9, 0.1])
    train(job(data, network, tokenizer, epochs=2, keep_best=None), Notes(tmp_path).hooks())
    assert same_weights(weights_of(network), {n[11:]: t for n, t in judged[1].items()})


def test_training_stops_when_patience_runs_out(data: TokenData, tokenizer: Any, tmp_path: Path, scripted: Any) -> None:
    notes, judged = Notes(tmp_path), scripted([0.1, 0.5, 0.4, 0.5, 0.5])
    train(job(data, make_network(), tokenizer, patience=2), notes.hooks())
    assert notes.statuses[-1].step == 4 * 5
    assert notes.statuses[-1].remarks == ("stopped early: 2 evaluations no better than after step 10",)
    assert [status.remarks for status in notes.statuses[:-1]] == [None] * (len(notes.statuses) - 1)
    assert same_weights(judged[-1], judged[1])


def test_a_run_that_stopped_early_stays_stopped(data: TokenData, tokenizer: Any, tmp_path: Path, scripted: Any) -> None:
    notes, judged = Notes(tmp_path), scripted([0.5, 0.4, 0.3, 0.5, 0.5])
    train(job(data, make_network(), tokenizer, patience=2), notes.hooks())
    again = Notes(tmp_path / "again")
    train(job(data, make_network(seed=9), tokenizer, patience=2), again.hooks(restore=notes.checkpoints[-1]))
    assert again.statuses == []
    assert same_weights(judged[-1], judged[0])


@pytest.mark.parametrize("position", range(5))
def test_a_resumed_run_remembers_what_was_best_and_how_long_ago(
    data: TokenData, tokenizer: Any, tmp_path: Path, scripted: Any, position: int
) -> None:
    figures = [0.1, 0.5, 0.4, 0.45, 0.3, 0.5]
    notes, network = Notes(tmp_path), make_network()
    scripted(figures)
    train(job(data, network, tokenizer, patience=3), notes.hooks())
    resumed, again = make_network(seed=9), Notes(tmp_path / "again")
    scripted(figures[position + 1 :])
    train(job(data, resumed, tokenizer, patience=3), again.hooks(restore=notes.checkpoints[position]))
    assert same_weights(weights_of(resumed), weights_of(network))
    assert [status.step for status in [*notes.statuses, *again.statuses]][-1] == 25


def test_evaluations_come_every_so_many_steps_and_at_the_end(data: TokenData, tokenizer: Any, tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    result = train(job(data, make_network(), tokenizer, epochs=2, evaluate_every_steps=4), notes.hooks())
    assert [status.step for status in notes.statuses if status.validation] == [4, 8, 10]
    assert [status.step for status in notes.statuses] == [4, 5, 8, 10]
    best = max(status.validation["macro_f1"] for status in notes.statuses if status.validation)
    assert result[""].evaluation.metrics["macro_f1"] == pytest.approx(best)


def test_the_recipes_options_change_what_is_learnt(data: TokenData, tmp_path: Path) -> None:
    """And each of them learns something: an option that is read nowhere would leave two networks equal."""
    options: list[dict[str, Any]] = [
        {},
        {"schedule": "cosine"},
        {"schedule": "constant"},
        {"label_smoothing": 0.2},
        {"layer_decay": 0.5},
        {"batch_tokens": 60},
        {"sampling": {"neutral": 3.0}},
        {"class_weights": {"neutral": 3.0}},
    ]
    found = []
    for option in options:
        network = make_network()
        recipe = {"batch_rows": 8} if "batch_tokens" not in option else {}
        context = context_for(data, network, learning_rate=3e-3, **recipe, **option)
        train(job_for(context), Notes(tmp_path).hooks())
        found.append(weights_of(network))
    pairs = [(left, right) for left in range(len(found)) for right in range(left)]
    assert [pair for pair in pairs if same_weights(found[pair[0]], found[pair[1]])] == []


def test_a_figure_that_falls_for_the_better_is_turned() -> None:
    figures = {"a": {"loss": 0.5, "f1": 0.7}, "b": {"ndcg@10": 0.3}}
    tasks = {"a": TASKS["token-classification"], "b": TASKS["embedding"]}
    assert read_figure("a.loss", figures, tasks) == -0.5
    assert read_figure("a.f1", figures, tasks) == 0.7
    assert read_figure("auto", {"a": figures["a"]}, tasks) == 0.7
    assert read_figure("auto", {"b": figures["b"]}, tasks) == 0.3
    with pytest.raises(
        TrainingError, match=r"keep_best is 'b.spearman', and .* no such figure; they give: b.ndcg@10\n"
    ):
        read_figure("b.spearman", figures, tasks)
    with pytest.raises(TrainingError, match=r"keep_best is 'auto', and the validation rows .* they give: none\n"):
        read_figure("auto", {"": {}}, {"": TASKS["similarity"]})


def test_a_figure_that_is_not_a_number_is_no_improvement() -> None:
    first = Standing().after(5, math.nan)
    assert first == Standing(5, -math.inf, 0)
    assert first.after(10, math.nan) == Standing(5, -math.inf, 1)
    assert first.after(10, -3.0) == Standing(10, -3.0, 0)


@pytest.mark.parametrize("keep_best", ["accurasy", "tone.f1", ""])
def test_an_unknown_figure_is_named_with_those_there_are(keep_best: str) -> None:
    with pytest.raises(SpecError, match=r"training\.keep_best: holds .*; expected one of: accuracy, .*, auto$"):
        check_best(TrainingConfig(keep_best=keep_best), {"": TASK}, "spec.yaml")


def test_figures_of_several_heads_are_named_by_head() -> None:
    tasks = {"tone": TASK, "size": TASKS["similarity"]}
    check_best(TrainingConfig(keep_best="size.pearson"), tasks, "spec.yaml")
    with pytest.raises(
        SpecError, match=r"holds 'auto'; expected one of: tone\.accuracy, .*size\.spearman, size\.pearson$"
    ):
        check_best(TrainingConfig(keep_best="auto"), tasks, "spec.yaml")
