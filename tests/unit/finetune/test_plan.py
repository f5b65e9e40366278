from __future__ import annotations

import numpy as np
import pytest

from pipeline.finetune.plan import TrainingPlan, learning_rate_factor, share_batch


def plan(**changes: int) -> TrainingPlan:
    return TrainingPlan(**{"num_rows": 100, "batch_rows": 8, "epochs": 3, "min_steps": 0, "seed": 17, **changes})


def order(plan: TrainingPlan, epoch: int) -> list[int]:
    first = epoch * plan.steps_of(0)
    return [int(row) for step in range(first, first + plan.steps_of(epoch)) for row in plan.batch(step)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [order(plan(), 0), order(plan(), 1), order(plan(seed=18), 0), list(range(100))]
    assert len({tuple(rows) for rows in orders}) == 4
    assert order(plan(), 1) == order(plan(epochs=9, min_steps=500), 1)


def test_the_order_never_changes_between_releases() -> None:
    """Golden: a checkpoint of an older version must go on with the batches it had left."""
    assert plan(num_rows=10, batch_rows=4).batch(1).tolist() == [8, 6, 2, 9]


@pytest.mark.parametrize(
    ("changes", "num_steps"),
    [({}, 39), ({"min_steps": 40}, 40), ({"min_steps": 39}, 39), ({"num_rows": 1, "epochs": 1}, 1)],
)
def test_small_sets_train_at_least_min_steps(changes: dict[str, int], num_steps: int) -> None:
    assert plan(**changes).num_steps == num_steps


def test_shares_go_to_the_least_loaded_worker_longest_first() -> None:
    shares = share_batch(np.array([7, 8, 9, 10]), np.array([5, 9, 4, 1]), 2)
    assert [share.tolist() for share in shares] == [[8, 10], [7, 9]]


def test_more_workers_than_rows_leave_empty_shares() -> None:
    shares = share_batch(np.array([3]), np.array([5]), 3)
    assert [share.tolist() for share in shares] == [[3], [], []]
    assert {share.dtype for share in shares} == {np.dtype(np.int64)}


def test_the_learning_rate_warms_up_and_decays_in_straight_lines() -> None:
    factors = [learning_rate_factor(step, 10, 0.4) for step in range(11)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_other_schedules() -> None:
    cosine = [learning_rate_factor(step, 6, 1 / 3, "cosine") for step in range(7)]
    assert cosine == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    assert [learning_rate_factor(step, 4, 0.5, "constant") for step in range(4)] == [0.5, 1, 1, 1]


def test_batches_by_tokens_take_the_next_rows_that_fit() -> None:
    lengths = np.array([5, 5, 5, 5, 5, 99, 5, 5, 5, 5])
    by_tokens = TrainingPlan(10, 1, 1, 0, 17, batch_tokens=10, lengths=lengths)
    order = [8, 3, 5, 2, 9, 1, 7, 6, 4, 0]
    found = [by_tokens.batch(step).tolist() for step in range(by_tokens.num_steps)]
    assert sorted(row for batch in found for row in batch) == sorted(order)
    assert [5] in found
    assert max(lengths[batch].sum() for batch in found if batch != [5]) == 10


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert [learning_rate_factor(step, 4, 0.0) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_a_run_that_only_warms_up_ends_at_the_peak() -> None:
    assert [learning_rate_factor(step, 4, 1.0) for step in range(4)] == [0.25, 0.5, 0.75, 1]
