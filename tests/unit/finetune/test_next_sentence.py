"""Hidden tokens and next sentences: transformers' own loss, the same whatever the batch and the interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.forward import encode, lay_out
from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding
from pipeline.finetune.hidden import HiddenRows
from pipeline.finetune.loop import evaluate, train
from pipeline.finetune.step import run_step
from tests.unit.finetune.hidden_tokens import NEXT, job_of, make_pair_guesser, pairing_head
from tests.unit.finetune.many_heads import assert_near, context_of
from tests.unit.finetune.training import Notes, gradients_of, same_weights, weights_of

BATCH = np.array([7, 2, 11, 3, 16, 0, 9, 21])
CPU = torch.device("cpu")


def joined() -> JoinedHeads:
    return JoinedHeads({NEXT.name: make_pair_guesser()}, EmbeddingOptions("mean", normalize=True))


def hidden_of(tokenizer: Any, rows: np.ndarray, epoch: int) -> HiddenRows:
    head = pairing_head(tokenizer)
    assert head.hiding is not None
    return HiddenRows.of(head.data, rows, [(epoch, row) for row in rows.tolist()], head.hiding, head.pairing)


@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 100_000])
def test_the_gradient_is_that_of_transformers_own_loss(tokenizer: Any, micro_batch_tokens: int) -> None:
    head, network, reference = pairing_head(tokenizer, weight=2.0), joined(), make_pair_guesser().train()
    made = context_of([head], network, micro_batch_tokens=micro_batch_tokens).in_epoch(3)
    result = run_step(made, torch.optim.SGD(network.parameters(), lr=0.0), BATCH, BATCH, 1)
    hidden = hidden_of(tokenizer, BATCH, epoch=3)
    assert hidden.is_next is not None
    assert 0 < hidden.is_next.sum() < len(BATCH)
    of_tokens, of_pairs = torch.zeros(()), torch.zeros(())
    for number in range(len(BATCH)):
        ids = torch.from_numpy(hidden.rows.row(number).astype(np.int64))[None]
        types = torch.from_numpy(hidden.rows.take(np.array([number])).type_ids.astype(np.int64))[None]
        labels = torch.full_like(ids, -100)
        window = hidden.windows[number]
        labels[0, window.places] = torch.from_numpy(window.truth.astype(np.int64))
        truth = torch.tensor([0 if hidden.is_next[number] else 1])
        given = {"input_ids": ids, "token_type_ids": types, "labels": labels}
        pair_loss = reference(**given, next_sentence_label=truth).loss
        found = reference(**given)
        own = torch.nn.functional.cross_entropy(found.prediction_logits[0], labels[0], reduction="sum")
        of_tokens = of_tokens + own
        of_pairs = of_pairs + pair_loss - own / len(window.places)
    loss = 2.0 * (of_tokens / hidden.num_hidden + of_pairs / len(BATCH))
    loss.backward()
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    found = {name.removeprefix("networks.0."): value for name, value in gradients_of(network).items()}
    assert_near(found, gradients_of(reference))


def test_a_pack_gives_what_a_padded_batch_gives(tokenizer: Any) -> None:
    hidden, network = hidden_of(tokenizer, BATCH, epoch=0), joined()
    encoder, every = network.encoder.eval(), np.arange(len(BATCH))
    found = []
    for kernel in ("packed", "sdpa"):
        encoder.config._attn_implementation = kernel
        batch = lay_out(hidden.rows, every, encoder, Padding(0), CPU)
        assert (batch.pack is None) == (kernel == "sdpa")
        with torch.no_grad():
            encoded = encode(encoder, batch)
            found.append(encoded.pretraining_logits(network.network(NEXT.name).eval(), hidden.places(every)))
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    assert [tuple(logits.shape) for logits in found[0]] == [(hidden.num_hidden, 127), (len(BATCH), 2)]


def test_pairs_do_not_depend_on_their_batch(tokenizer: Any) -> None:
    num_windows = len(pairing_head(tokenizer).data)
    every, some = (hidden_of(tokenizer, rows, epoch=2) for rows in (np.arange(num_windows), BATCH))
    assert every.is_next is not None
    assert some.is_next is not None
    for number, row in enumerate(BATCH.tolist()):
        assert np.array_equal(some.rows.row(number), every.rows.row(row))
        assert some.is_next[number] == every.is_next[row]


def test_a_resumed_run_ends_with_the_very_weights_of_an_undisturbed_one(tokenizer: Any, tmp_path: Path) -> None:
    head = pairing_head(tokenizer)
    straight, notes = joined(), Notes(tmp_path)
    train(job_of(head, straight, tokenizer, epochs=3), notes.hooks())
    again, resumed = joined(), Notes(tmp_path / "resumed")
    train(job_of(head, again, tokenizer, epochs=3), resumed.hooks(notes.checkpoints[0]))
    assert resumed.statuses[0].epoch == 1
    assert same_weights(weights_of(straight), weights_of(again))


def test_it_learns_and_is_judged_the_same_every_time_and_in_any_parts(tokenizer: Any, tmp_path: Path) -> None:
    job = job_of(pairing_head(tokenizer, 60), joined(), tokenizer, epochs=8)
    before = evaluate(job)[NEXT.name].evaluation
    assert before == evaluate(job)[NEXT.name].evaluation
    assert before.metrics.keys() == {"loss", "accuracy", "perplexity", "next_loss", "next_accuracy"}
    small = replace(job.context.runtime, budget=replace(job.context.runtime.budget, tokens=12))
    parts = evaluate(replace(job, context=replace(job.context, runtime=small)))[NEXT.name].evaluation
    assert parts.metrics == pytest.approx(before.metrics, rel=1e-4)
    after = train(job, Notes(tmp_path).hooks())[NEXT.name].evaluation
    assert after.metrics["loss"] < before.metrics["loss"] - 0.5
    assert after.metrics["next_loss"] < before.metrics["next_loss"]
    assert after.num_rows == before.num_rows  # hidden tokens
