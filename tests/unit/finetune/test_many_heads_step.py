"""One step over a batch with rows of several heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.heads import JoinedHeads
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.step import StepContext, StepResult, TrainingHead, run_step
from tests.unit.finetune.many_heads import (
    assert_near,
    context_of,
    embed_plainly,
    heads_of,
    join,
    plain_loss,
    plain_row_loss,
)
from tests.unit.finetune.training import gradients_of

LABELS, TAGS, PAIRS = (0, 20), (20, 43), (43, 59)
BATCHES = {
    "labels and tags": [3, 25, 0, 42, 20, 21, 7, 19, 33],
    "all three": [50, 3, 25, 58, 0, 42, 20, 43, 44, 7, 51, 19, 33],
    "labels alone": [3, 0, 7, 19],
    "tags alone": [25, 21, 42],
    "pairs alone": [43, 58, 50, 47],
    "tags and pairs": [43, 58, 30, 50, 47, 31],
    "a tag row without a tag": [21, 4],
}


@pytest.fixture(scope="module")
def heads(tokenizer: Any) -> tuple[TrainingHead, ...]:
    return heads_of(tokenizer)


def step(heads: tuple[TrainingHead, ...], batch: list[int], **recipe: Any) -> tuple[StepResult, JoinedHeads]:
    joined = join(heads)
    rows = np.array(batch)
    context = context_of(heads, joined, **recipe)
    return run_step(context, torch.optim.SGD(joined.parameters(), lr=0.0), rows, rows, seed=1), joined


def plain_step(heads: tuple[TrainingHead, ...], batch: list[int]) -> tuple[float, JoinedHeads]:
    """The sum over heads of (share of the batch's rows) x (weight) x (mean loss over the head's terms)."""
    joined = join(heads).train()
    total = torch.zeros(())
    for head, (low, high) in zip(heads, (LABELS, TAGS, PAIRS), strict=True):
        own = np.array([row - low for row in batch if low <= row < high])
        if head.name == "embedding" and len(own):
            loss = plain_loss("triplets", embed_plainly(joined.encoder, head.data, own), head.data, own)
        elif len(own) and head.data.targets.weights[own].any():
            loss = plain_row_loss(joined.network(head.name), head, own)
        else:
            continue
        total = total + head.weight * len(own) / len(batch) * loss
    total.backward()
    return float(total.detach()), joined


@pytest.mark.parametrize("micro_batch_tokens", [1, 50, 100_000])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_heads_count_by_their_rows_and_weights(
    heads: tuple[TrainingHead, ...], batch: list[int], micro_batch_tokens: int
) -> None:
    result, joined = step(heads, batch, micro_batch_tokens=micro_batch_tokens)
    loss, reference = plain_step(heads, batch)
    expected = gradients_of(reference)
    found = gradients_of(joined)
    assert found.keys() == dict(joined.named_parameters()).keys()
    assert_near({name: found[name] for name in expected}, expected)
    assert all(not found[name].any() for name in found.keys() - expected.keys())
    assert result.loss == pytest.approx(loss, rel=1e-5)


def test_accumulated_gradients_are_the_large_batchs_however_uneven_the_counts(
    heads: tuple[TrainingHead, ...],
) -> None:
    """Rows with 0 to a dozen tags, in one pass, in several and in one pass for each row."""
    batch = list(range(*TAGS))
    counts = heads[1].data.targets.weights[np.array(batch) - TAGS[0]]
    assert (counts.min(), len(set(counts.tolist())) > 4) == (0, True)
    large = gradients_of(step(heads[:2], batch, micro_batch_tokens=100_000)[1])
    for micro_batch_tokens in (1, 60):
        parts = gradients_of(step(heads[:2], batch, micro_batch_tokens=micro_batch_tokens)[1])
        for name, gradient in large.items():
            np.testing.assert_allclose(parts[name], gradient, rtol=0, atol=1e-6, err_msg=name)


def test_rows_are_numbered_through_all_heads(heads: tuple[TrainingHead, ...]) -> None:
    context = context_of(heads)
    parts = context.split(np.array([58, 0, 43, 20, 19, 42, 1]))
    assert [part.tolist() for part in parts] == [[0, 19, 1], [0, 22], [15, 0]]
    lengths = context.row_lengths
    assert len(lengths) == 59
    assert lengths[0] == heads[0].data.rows.lengths[0]
    assert lengths[20] == heads[1].data.rows.lengths[0]
    assert lengths[58] == heads[2].data.rows.lengths[45:48].sum()


def test_tokens_of_all_heads_are_counted(heads: tuple[TrainingHead, ...]) -> None:
    batch = BATCHES["all three"]
    result, _ = step(heads, batch)
    assert result.num_tokens == context_of(heads).row_lengths[batch].sum() <= result.num_padded_tokens


def test_an_empty_share_takes_part_with_every_head_and_changes_nothing(heads: tuple[TrainingHead, ...]) -> None:
    joined = join(heads)
    rows = np.array(BATCHES["labels and tags"])
    context = context_of(heads, joined)
    result = run_step(context, torch.optim.SGD(joined.parameters(), lr=1.0), rows, rows[:0], seed=1)
    found = gradients_of(joined)
    assert found.keys() == dict(joined.named_parameters()).keys()
    assert all(not gradient.any() for gradient in found.values())
    assert (result.loss, result.num_tokens, result.num_padded_tokens, result.grad_norm) == (0, 0, 0, 0)


def test_every_head_is_in_the_last_pass_whichever_has_rows(heads: tuple[TrainingHead, ...]) -> None:
    for batch in BATCHES.values():
        joined, called = join(heads), []
        joined.register_forward_pre_hook(lambda _module, inputs, called=called: called.append(set(inputs[0])))
        rows = np.array(batch)
        context = context_of(heads, joined, micro_batch_tokens=40)
        run_step(context, torch.optim.SGD(joined.parameters(), lr=0.0), rows, rows, seed=1)
        assert called[-1] == {head.name for head in heads}


def test_dropout_differs_between_heads_steps_and_micro_batches(heads: tuple[TrainingHead, ...]) -> None:
    joined = join(heads, dropout=0.1)
    seeds: list[tuple[str, int]] = []

    def note(_module: Any, inputs: Any) -> None:
        if torch.is_grad_enabled():
            seeds.extend((name, call.seed) for name, call in inputs[0].items())

    joined.register_forward_pre_hook(note)
    context: StepContext = context_of(heads, joined, micro_batch_tokens=40)
    rows = np.array(BATCHES["all three"])
    run_step(context, torch.optim.SGD(joined.parameters(), lr=0.0), rows, rows, seed=1)
    assert len(seeds) > 6
    assert len({seed for _, seed in seeds}) == len(seeds)


def test_the_optimizer_holds_a_shared_weight_once_and_every_head_at_its_own_rate(
    heads: tuple[TrainingHead, ...],
) -> None:
    joined = join(heads)
    config = context_of(heads, learning_rate=1e-4, head_learning_rate=1e-2).config
    groups = make_optimizer(joined, config).param_groups
    held = [id(weights) for group in groups for weights in group["params"]]
    assert sorted(held) == sorted(id(weights) for weights in joined.parameters())
    of_encoder = {id(weights) for weights in joined.encoder.parameters()}
    for group in groups:
        rates = {1e-4 if id(weights) in of_encoder else 1e-2 for weights in group["params"]}
        assert rates == {group["peak_lr"]}


def test_a_pooler_that_no_head_uses_is_not_in_the_optimizer(heads: tuple[TrainingHead, ...]) -> None:
    joined = join(heads[1:])
    held = {
        id(w) for group in make_optimizer(joined, context_of(heads[1:]).config).param_groups for w in group["params"]
    }
    assert held == {id(weights) for name, weights in joined.named_parameters() if ".pooler." not in name}
