from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.finetune.optimizer import make_optimizer, set_learning_rate
from pipeline.finetune.plan import share_batch
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.step import StepResult, run_step
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.base import IGNORED
from tests.tiny import make_network
from tests.unit.finetune.training import context_for, gradients_of, join, same_weights, token_data, weights_of

BATCH = np.arange(5, 29)


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    return token_data(tokenizer, 40)


def one_step(
    data: TokenData, batch: np.ndarray, share: np.ndarray, world_size: int = 1, **recipe: Any
) -> tuple[StepResult, Any]:
    """Plain SGD, so that a weight changes by exactly its gradient."""
    network = make_network()
    context = context_for(data, network, world_size, **recipe)
    result = run_step(context, torch.optim.SGD(network.parameters(), lr=1.0), batch, share, seed=1)
    return result, network


def assert_close(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 200])
def test_micro_batches_do_not_change_the_step(data: TokenData, micro_batch_tokens: int) -> None:
    whole, whole_network = one_step(data, BATCH, BATCH, micro_batch_tokens=100_000)
    parts, parts_network = one_step(data, BATCH, BATCH, micro_batch_tokens=micro_batch_tokens)
    assert_close(gradients_of(parts_network), gradients_of(whole_network))
    trained, expected = parts_network.state_dict(), whole_network.state_dict()
    assert_close({n: t.numpy() for n, t in trained.items()}, {n: t.numpy() for n, t in expected.items()})
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert parts.num_tokens == whole.num_tokens == data.rows.lengths[BATCH].sum()
    assert parts.num_tokens <= parts.num_padded_tokens <= whole.num_padded_tokens


def test_the_gradient_is_that_of_the_mean_loss_over_the_batch(data: TokenData) -> None:
    result, network = one_step(data, BATCH, BATCH)
    reference = make_network().train()
    losses = []
    for row in BATCH:
        ids = torch.from_numpy(data.rows.row(int(row)).astype(np.int64))[None]
        losses.append(reference(input_ids=ids, labels=torch.tensor([int(data.targets.values[row])])).loss)
    loss = torch.stack(losses).mean()
    loss.backward()
    assert_close(gradients_of(network), gradients_of(reference))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 30])
def test_the_average_over_ranks_is_the_gradient_of_one_worker(data: TokenData, world_size: int) -> None:
    whole, alone = one_step(data, BATCH, BATCH)
    shares = share_batch(BATCH, data.rows.lengths[BATCH], world_size)
    results, networks = zip(*(one_step(data, BATCH, share, world_size) for share in shares), strict=True)
    ranks = [gradients_of(network) for network in networks]
    average = {name: np.mean([rank[name] for rank in ranks], axis=0) for name in ranks[0]}
    assert_close(average, gradients_of(alone))
    assert sum(result.loss for result in results) == pytest.approx(whole.loss, rel=1e-5)
    assert sum(result.num_tokens for result in results) == whole.num_tokens


def test_a_row_without_a_target_pulls_nowhere(data: TokenData) -> None:
    values, weights = data.targets.values.copy(), data.targets.weights.copy()
    values[BATCH[::3]], weights[BATCH[::3]] = IGNORED, 0
    valid = BATCH[values[BATCH] >= 0]
    gaps = TokenData(data.rows, replace(data.targets, values=values, weights=weights))
    some, with_gaps = one_step(gaps, BATCH, BATCH)
    all_valid, without = one_step(data, valid, valid)
    assert some.loss == pytest.approx(all_valid.loss, rel=1e-5)
    assert_close(gradients_of(with_gaps), gradients_of(without))


def test_an_empty_share_takes_part_and_changes_nothing(data: TokenData) -> None:
    before = weights_of(make_network())
    result, network = one_step(data, BATCH, BATCH[:0], world_size=4)
    assert gradients_of(network).keys() == dict(network.named_parameters()).keys()
    assert all(not gradient.any() for gradient in gradients_of(network).values())
    assert same_weights(weights_of(network), before)
    assert (result.loss, result.num_tokens, result.num_padded_tokens) == (0, 0, 0)


def test_gradients_are_clipped_to_the_norm_asked_for(data: TokenData) -> None:
    result, network = one_step(data, BATCH, BATCH, max_grad_norm=1e-3)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients_of(network).values()))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert result.grad_norm > 1e-2


def test_gradients_do_not_pile_up_between_steps(data: TokenData) -> None:
    network = make_network()
    context = context_for(data, network)
    frozen = torch.optim.SGD(network.parameters(), lr=0.0)
    run_step(context, frozen, BATCH, BATCH, seed=1)
    first = gradients_of(network)
    run_step(context, frozen, BATCH, BATCH, seed=1)
    assert_close(gradients_of(network), first)


def test_a_step_trains_even_after_an_evaluation_left_the_network_in_eval_mode(data: TokenData) -> None:
    network = make_network().eval()
    run_step(context_for(data, network), torch.optim.SGD(network.parameters(), lr=0.0), BATCH, BATCH, seed=1)
    assert network.training


def test_the_optimizer_holds_every_weight_once_in_the_right_group() -> None:
    network = make_network()
    config = TrainingConfig(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.1)
    optimizer = make_optimizer(join(network), config)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for name, group in found.items():
        is_head = name.startswith("classifier.")
        no_decay = name.endswith(".bias") or "LayerNorm" in name
        assert group["lr"] == group["peak_lr"] == (1e-2 if is_head else 1e-4)
        assert group["weight_decay"] == (0.0 if no_decay else 0.1)


def test_frozen_weights_are_left_out() -> None:
    network = make_network()
    network.base_model.requires_grad_(False)
    optimizer = make_optimizer(join(network), TrainingConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_learning_rate_is_a_share_of_each_groups_peak() -> None:
    network = make_network()
    config = TrainingConfig(learning_rate=1e-4, head_learning_rate=1e-2)
    optimizer = make_optimizer(join(network), config)
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {2.5e-5, 2.5e-3}
