"""Losses that compare all rows of a batch: two passes in micro-batches give what one plain autograd pass gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.heads import HeadCall, JoinedHeads
from pipeline.finetune.step import StepResult, run_step
from pipeline.finetune.token_cache import TokenData
from tests.unit.finetune.many_heads import (
    KINDS,
    assert_near,
    context_of,
    embed_plainly,
    head_of,
    join,
    pair_data,
    plain_loss,
)
from tests.unit.finetune.training import gradients_of

BATCH = np.array([7, 2, 11, 3, 16, 0, 9, 10, 1])


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, TokenData]:
    return request.param, pair_data(tokenizer, 18, request.param)


def step(
    joined: JoinedHeads, data: TokenData, batch: np.ndarray, weight: float = 1.0, seed: int = 5, **recipe: Any
) -> StepResult:
    context = context_of([head_of("embedding", data, weight)], joined, **recipe)
    return run_step(context, torch.optim.SGD(joined.parameters(), lr=0.0), batch, batch, seed)


@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 100_000])
def test_the_gradient_is_that_of_one_pass_over_the_whole_batch(
    case: tuple[str, TokenData], micro_batch_tokens: int
) -> None:
    kind, data = case
    joined, reference = (join([head_of("embedding", data)]) for _ in range(2))
    result = step(joined, data, BATCH, weight=2.5, micro_batch_tokens=micro_batch_tokens)
    loss = 2.5 * plain_loss(kind, embed_plainly(reference.encoder.train(), data, BATCH), data, BATCH)
    loss.backward()
    assert_near(gradients_of(joined), gradients_of(reference))
    assert max(np.abs(gradient).max() for gradient in gradients_of(joined).values()) > 1e-3
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert result.num_tokens == data.row_lengths[BATCH].sum() <= result.num_padded_tokens
    norm = np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients_of(reference).values()))
    assert result.grad_norm == pytest.approx(norm, rel=1e-4)


class Calls:
    """What went through a JoinedHeads, in order: (call, whether with gradients, embeddings)."""

    def __init__(self, joined: JoinedHeads) -> None:
        self.made: list[tuple[HeadCall, bool, torch.Tensor]] = []
        self._handle = joined.register_forward_hook(self._note)

    def _note(self, _module: Any, inputs: Any, output: dict[str, torch.Tensor]) -> None:
        (calls,) = inputs
        made = output["embedding"]
        self.made.append((calls["embedding"], made.requires_grad, made.detach().clone()))

    def stop(self) -> None:
        self._handle.remove()


def windows_by_ids(data: TokenData) -> dict[tuple[int, ...], int]:
    """Every text of the made-up pairs is different, so its ids name its window."""
    found = {tuple(data.rows.row(window).tolist()): window for window in range(len(data.rows))}
    assert len(found) == len(data.rows)
    return found


def replay(joined: JoinedHeads, calls: list[HeadCall], data: TokenData, batch: np.ndarray) -> torch.Tensor:
    """All recorded calls once more, in one graph, put in the order of the batch: [N, K, H]."""
    window_of = windows_by_ids(data)
    vectors: dict[int, torch.Tensor] = {}
    for call in calls:
        pooled = joined({"embedding": call})["embedding"]
        windows = call.batch
        ids_BS = windows.spread(windows.inputs["input_ids"][0])
        for ids, mask, vector in zip(ids_BS, windows.mask_BS.bool(), pooled, strict=True):
            vectors[window_of[tuple(ids[mask].tolist())]] = vector
    width = data.texts_per_row
    return torch.stack([torch.stack([vectors[int(row) * width + text] for text in range(width)]) for row in batch])


@pytest.mark.parametrize("micro_batch_tokens", [60, 100_000])
def test_with_dropout_both_passes_draw_the_same_and_the_gradient_is_theirs(
    case: tuple[str, TokenData], micro_batch_tokens: int
) -> None:
    kind, data = case
    joined = join([head_of("embedding", data)], dropout=0.3)
    calls = Calls(joined)
    result = step(joined, data, BATCH, micro_batch_tokens=micro_batch_tokens)
    calls.stop()
    first = [(call, made) for call, with_grad, made in calls.made if not with_grad]
    second = [(call, made) for call, with_grad, made in calls.made if with_grad]
    assert len(first) == len(second) == (1 if micro_batch_tokens == 100_000 else len(first))
    assert sum(len(made) for _, made in first) == len(BATCH) * data.texts_per_row
    for (call, made), (again, made_again) in zip(first, second, strict=True):
        assert call.seed == again.seed
        assert torch.equal(made, made_again)
    assert len({call.seed for call, _ in first}) == len(first)
    found = gradients_of(joined)
    joined.zero_grad()
    loss = plain_loss(kind, replay(joined, [call for call, _ in second], data, BATCH), data, BATCH)
    loss.backward()
    assert_near(found, gradients_of(joined))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_another_seed_draws_another_dropout(tokenizer: Any) -> None:
    data = pair_data(tokenizer, 18)
    joined = join([head_of("embedding", data)], dropout=0.3)
    losses = [step(joined, data, BATCH, seed=seed).loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_the_order_of_a_batch_does_not_count(case: tuple[str, TokenData]) -> None:
    _, data = case
    joined, shuffled = (join([head_of("embedding", data)]) for _ in range(2))
    results = [step(joined, data, BATCH), step(shuffled, data, np.sort(BATCH))]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert_near(gradients_of(joined), gradients_of(shuffled))


def test_a_batch_of_one_pair_has_nothing_to_compare(tokenizer: Any) -> None:
    data = pair_data(tokenizer, 18)
    joined = join([head_of("embedding", data)])
    result = step(joined, data, BATCH[:1])
    assert result.loss == pytest.approx(0, abs=1e-6)
    assert all(np.abs(gradient).max() < 1e-6 for gradient in gradients_of(joined).values())


def test_weights_are_the_ones_before_the_step_in_both_passes(tokenizer: Any) -> None:
    data = pair_data(tokenizer, 18)
    joined, reference = (join([head_of("embedding", data)]) for _ in range(2))
    context = context_of([head_of("embedding", data)], joined, micro_batch_tokens=60)
    run_step(context, torch.optim.SGD(joined.parameters(), lr=0.5), BATCH, BATCH, seed=1)
    plain_loss("pairs", embed_plainly(reference.encoder.train(), data, BATCH), data, BATCH).backward()
    torch.optim.SGD(reference.parameters(), lr=0.5).step()
    trained, expected = joined.state_dict(), reference.state_dict()
    assert_near({n: t.numpy() for n, t in trained.items()}, {n: t.numpy() for n, t in expected.items()})
