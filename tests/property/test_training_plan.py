"""TrainingPlan and share_batch: who reads which row, whatever the number of workers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetune.plan import TrainingPlan, learning_rate_factor, share_batch

PLANS = st.builds(
    TrainingPlan,
    num_rows=st.integers(1, 300),
    batch_rows=st.integers(1, 64),
    epochs=st.integers(1, 4),
    min_steps=st.integers(0, 50),
    seed=st.integers(0, 2**31),
)


@given(PLANS)
def test_each_epoch_is_a_permutation_of_all_rows(plan: TrainingPlan) -> None:
    for epoch in range(plan.num_steps // plan.steps_per_epoch):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        rows = np.concatenate([plan.batch(step) for step in steps])
        assert sorted(rows.tolist()) == list(range(plan.num_rows))


@given(PLANS)
def test_every_batch_is_full_but_the_last_of_an_epoch(plan: TrainingPlan) -> None:
    ragged = plan.num_rows % plan.batch_rows or plan.batch_rows
    for step in range(plan.steps_per_epoch):
        is_last = step == plan.steps_per_epoch - 1
        assert len(plan.batch(step)) == (ragged if is_last else plan.batch_rows)


@given(PLANS)
def test_the_number_of_steps_respects_epochs_and_min_steps(plan: TrainingPlan) -> None:
    assert plan.num_steps >= plan.min_steps
    assert plan.num_steps >= plan.epochs * plan.steps_per_epoch
    assert plan.num_steps in (plan.min_steps, plan.epochs * plan.steps_per_epoch)
    ends = [step for step in range(plan.num_steps) if plan.ends_epoch(step)]
    starts_new = [step for step in range(plan.num_steps) if plan.epoch_of(step + 1) != plan.epoch_of(step)]
    assert set(ends) == {*starts_new, plan.num_steps - 1}


@given(PLANS, st.integers(1, 9), st.data())
def test_shares_partition_the_same_batch_for_any_number_of_workers(
    plan: TrainingPlan, num_workers: int, data: st.DataObject
) -> None:
    batch = plan.batch(data.draw(st.integers(0, plan.num_steps - 1)))
    lengths = np.array(data.draw(st.lists(st.integers(1, 512), min_size=len(batch), max_size=len(batch))), np.int64)
    shares = share_batch(batch, lengths, num_workers)
    assert len(shares) == num_workers
    assert sorted(row for share in shares for row in share.tolist()) == sorted(batch.tolist())
    assert [share.tolist() for share in shares] == [s.tolist() for s in share_batch(batch, lengths, num_workers)]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64), st.integers(1, 9))
def test_shares_are_balanced_by_tokens(lengths: list[int], num_workers: int) -> None:
    shares = share_batch(np.arange(len(lengths)), np.array(lengths, np.int64), num_workers)
    loads = [sum(lengths[row] for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_learning_rate_stays_between_zero_and_its_peak(num_steps: int, warmup_fraction: float) -> None:
    factors = [learning_rate_factor(step, num_steps, warmup_fraction) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    peak = factors.index(1)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
