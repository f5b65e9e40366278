"""Hidden tokens: the same whatever the batch, the workers and the interruption; losses as transformers has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.finetune.hidden import HiddenRows, validation_keys
from pipeline.finetune.loop import evaluate, train
from pipeline.finetune.step import StepContext, TrainingHead, run_step
from tests.tiny import make_network
from tests.unit.finetune.hidden_tokens import head_of, job_of, make_guesser, plain_loss, rules_of, text_data, text_rows
from tests.unit.finetune.many_heads import assert_near, context_of
from tests.unit.finetune.training import Notes, gradients_of, same_weights, weights_of

BATCH = np.array([7, 2, 11, 3, 16, 0, 9, 21])


def joined() -> JoinedHeads:
    return JoinedHeads({"masked-lm": make_guesser()}, EmbeddingOptions("mean", normalize=True))


def context(head: TrainingHead, network: JoinedHeads, **recipe: Any) -> StepContext:
    return context_of([head], network, **recipe)


@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 100_000])
def test_the_gradient_is_that_of_transformers_own_loss(tokenizer: Any, micro_batch_tokens: int) -> None:
    head, network, reference = head_of(tokenizer, weight=2.0), joined(), make_guesser().train()
    made = context(head, network, micro_batch_tokens=micro_batch_tokens).in_epoch(3)
    result = run_step(made, torch.optim.SGD(network.parameters(), lr=0.0), BATCH, BATCH, 1)
    loss = 2.0 * plain_loss(reference, head, BATCH, epoch=3)
    loss.backward()
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    found = {name.removeprefix("networks.0."): value for name, value in gradients_of(network).items()}
    assert_near(found, {name: value for name, value in gradients_of(reference).items() if name in found})
    assert len(found) == len(list(reference.named_parameters()))


def test_each_epoch_hides_other_tokens_and_a_task_without_any_keeps_its_context(tokenizer: Any) -> None:
    head, network = head_of(tokenizer), joined()
    made = context(head, network)
    losses = [
        run_step(made.in_epoch(epoch), torch.optim.SGD(network.parameters(), lr=0.0), BATCH, BATCH, 1).loss
        for epoch in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    plain = replace(made, heads=(replace(head, hiding=None),))
    assert plain.in_epoch(5) is plain


def test_what_is_hidden_in_a_row_does_not_depend_on_its_batch(tokenizer: Any) -> None:
    data, rules = text_data(tokenizer, 20), rules_of(tokenizer)
    every = HiddenRows.of(data, np.arange(len(data)), [(0, row) for row in range(len(data))], rules)
    some = HiddenRows.of(data, BATCH, [(0, row) for row in BATCH.tolist()], rules)
    for number, row in enumerate(BATCH.tolist()):
        assert np.array_equal(some.rows.row(number), every.rows.row(row))
        assert np.array_equal(some.windows[number].places, every.windows[row].places)
    chosen = np.array([4, 1])
    shown = np.concatenate([some.rows.row(4), some.rows.row(1)])
    whole = np.concatenate([data.rows.row(16), data.rows.row(2)])
    places = some.places(chosen).numpy()
    assert np.array_equal(whole[places], some.truth(chosen))
    assert np.array_equal(np.delete(shown, places), np.delete(whole, places))


def test_validation_hides_the_same_tokens_on_any_number_of_workers(tokenizer: Any) -> None:
    rows = text_rows(tokenizer, 13).inputs[0]
    alone = dict(zip(validation_keys(rows, 0, 1), range(len(rows)), strict=True))
    assert len(alone) == len(rows) > rows.num_rows  # some texts have several windows
    found = {}
    for rank in range(3):
        own = [window for window in range(len(rows)) if rows.window_rows[window] % 3 == rank]
        part = replace(rows, row_of=rows.window_rows[own] // 3, offsets=np.zeros(len(own) + 1, np.int64))
        found |= dict(zip(validation_keys(part, rank, 3), own, strict=True))
    assert found == alone


def test_a_resumed_run_ends_with_the_very_weights_of_an_undisturbed_one(tokenizer: Any, tmp_path: Path) -> None:
    head = head_of(tokenizer)
    straight, notes = joined(), Notes(tmp_path)
    train(job_of(head, straight, tokenizer, epochs=3), notes.hooks())
    again = joined()
    resumed = Notes(tmp_path / "resumed")
    train(job_of(head, again, tokenizer, epochs=3), resumed.hooks(notes.checkpoints[0]))
    assert resumed.statuses[0].epoch == 1
    assert same_weights(weights_of(straight), weights_of(again))


def test_a_guesser_learns_and_is_judged_the_same_every_time(tokenizer: Any, tmp_path: Path) -> None:
    network = joined()
    job = job_of(head_of(tokenizer, 60), network, tokenizer, epochs=12)
    before, again = evaluate(job)["masked-lm"].evaluation, evaluate(job)["masked-lm"].evaluation
    assert before == again
    after = train(job, Notes(tmp_path).hooks())["masked-lm"].evaluation
    assert after.metrics["loss"] < before.metrics["loss"] - 0.5
    assert after.metrics["accuracy"] > before.metrics["accuracy"]
    assert after.num_rows == before.num_rows  # hidden tokens


def test_a_vocabulary_s_weights_stay_one_with_the_embeddings_of_a_shared_encoder() -> None:
    networks = {"label": make_network(), "masked-lm": make_guesser()}
    together = JoinedHeads(networks, EmbeddingOptions("mean", normalize=True))
    embeddings = together.encoder.embeddings.word_embeddings.weight
    assert together.network("masked-lm").get_output_embeddings().weight is embeddings


def test_figures_of_several_parts_are_those_of_the_whole(tokenizer: Any) -> None:
    network = joined()
    job = job_of(head_of(tokenizer), network, tokenizer)
    small = replace(job.context.runtime, budget=replace(job.context.runtime.budget, tokens=12))
    parts = evaluate(replace(job, context=replace(job.context, runtime=small)))["masked-lm"].evaluation
    assert parts.metrics == pytest.approx(evaluate(job)["masked-lm"].evaluation.metrics, rel=1e-4)


def test_a_rank_without_validation_rows_judges_none(tokenizer: Any) -> None:
    head = head_of(tokenizer)
    job = job_of(head, joined(), tokenizer)
    full = evaluate(job)[head.name]
    none = evaluate(replace(job, validation={head.name: text_rows(tokenizer, 0, seed=3)}))[head.name]
    assert none.own.num_rows == none.evaluation.num_rows == 0
    assert none.own.schema == full.own.schema
    assert full.own.num_rows > 0
