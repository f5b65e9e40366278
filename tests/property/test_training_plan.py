"""TrainingPlan and share_batch: who reads which row, whatever the number of workers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetune.plan import Schedule, TrainingPlan, learning_rate_factor, share_batch


@st.composite
def plans(draw: st.DrawFn, by_tokens: bool | None = None, weighted: bool = False) -> TrainingPlan:
    """Plans by rows or by tokens (or either), with rows drawn once or by weight."""
    lengths = np.array(draw(st.lists(st.integers(1, 512), min_size=1, max_size=200)), np.int64)
    by_tokens = draw(st.booleans()) if by_tokens is None else by_tokens
    weights = st.lists(st.floats(0.05, 20), min_size=len(lengths), max_size=len(lengths))
    return TrainingPlan(
        num_rows=len(lengths),
        batch_rows=draw(st.integers(1, 64)),
        epochs=draw(st.integers(1, 4)),
        min_steps=draw(st.integers(0, 50)),
        seed=draw(st.integers(0, 2**31)),
        batch_tokens=draw(st.integers(1, 4_000)) if by_tokens else None,
        lengths=lengths,
        row_weights=np.array(draw(weights)) if weighted else None,
    )


def passes(plan: TrainingPlan) -> list[list[np.ndarray]]:
    """The batches of each whole pass."""
    steps = [plan.batch(step) for step in range(plan.num_steps)]
    found, first = [], 0
    for epoch in range(plan.epoch_of(plan.num_steps - 1) + 1):
        found.append(steps[first : first + plan.steps_of(epoch)])
        first += plan.steps_of(epoch)
    return [batches for epoch, batches in enumerate(found) if len(batches) == plan.steps_of(epoch)]


@given(plans())
def test_each_epoch_is_a_permutation_of_all_rows(plan: TrainingPlan) -> None:
    whole = passes(plan)
    assert len(whole) >= plan.epochs
    for batches in whole:
        assert sorted(np.concatenate(batches).tolist()) == list(range(plan.num_rows))


@given(plans(by_tokens=False))
def test_every_batch_is_full_but_the_last_of_an_epoch(plan: TrainingPlan) -> None:
    ragged = plan.num_rows % plan.batch_rows or plan.batch_rows
    for batches in passes(plan):
        assert [len(batch) for batch in batches] == [plan.batch_rows] * (len(batches) - 1) + [ragged]


@given(plans(by_tokens=True))
def test_a_batch_by_tokens_is_as_full_as_the_next_row_allows(plan: TrainingPlan) -> None:
    assert plan.lengths is not None
    assert plan.batch_tokens is not None
    for batches in passes(plan):
        sizes = [int(plan.lengths[batch].sum()) for batch in batches]
        assert all(size <= plan.batch_tokens or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
        following = [int(plan.lengths[batch[0]]) for batch in batches[1:]]
        assert all(size + row > plan.batch_tokens for size, row in zip(sizes, following, strict=False))


@given(plans(weighted=True))
def test_rows_are_drawn_as_often_as_their_weights_say(plan: TrainingPlan) -> None:
    assert plan.row_weights is not None
    expected = plan.num_rows * plan.row_weights / plan.row_weights.sum()
    for batches in passes(plan):
        drawn = Counter(np.concatenate(batches).tolist())
        assert drawn.total() == plan.num_rows
        for row, times in enumerate(expected):
            assert math.floor(times - 1e-6) <= drawn[row] <= math.ceil(times + 1e-6)


@given(plans())
def test_the_number_of_steps_respects_epochs_and_min_steps(plan: TrainingPlan) -> None:
    of_epochs = sum(plan.steps_of(epoch) for epoch in range(plan.epochs))
    assert plan.num_steps == max(plan.min_steps, of_epochs)
    ends = [step for step in range(plan.num_steps) if plan.ends_epoch(step)]
    starts_new = [step for step in range(plan.num_steps - 1) if plan.epoch_of(step + 1) != plan.epoch_of(step)]
    assert ends == [*starts_new, plan.num_steps - 1]


@given(plans(), st.integers(1, 9), st.data())
def test_shares_partition_the_same_batch_for_any_number_of_workers(
    plan: TrainingPlan, num_workers: int, data: st.DataObject
) -> None:
    assert plan.lengths is not None
    batch = plan.batch(data.draw(st.integers(0, plan.num_steps - 1)))
    shares = share_batch(batch, plan.lengths[batch], num_workers)
    assert len(shares) == num_workers
    assert sorted(row for share in shares for row in share.tolist()) == sorted(batch.tolist())
    assert [share.tolist() for share in shares] == [
        s.tolist() for s in share_batch(batch, plan.lengths[batch], num_workers)
    ]


@given(plans(), st.data())
def test_a_batch_does_not_depend_on_what_was_asked_before(plan: TrainingPlan, data: st.DataObject) -> None:
    """As a resumed run asks: for any step first, of a plan that is made anew."""
    step = data.draw(st.integers(0, plan.num_steps - 1))
    in_order = [plan.batch(number) for number in range(step + 1)][-1]
    again = TrainingPlan(**{name: getattr(plan, name) for name in TrainingPlan.__dataclass_fields__})
    assert again.batch(step).tolist() == in_order.tolist()


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64), st.integers(1, 9))
def test_shares_are_balanced_by_tokens(lengths: list[int], num_workers: int) -> None:
    shares = share_batch(np.arange(len(lengths)), np.array(lengths, np.int64), num_workers)
    loads = [sum(lengths[row] for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@given(num_steps=st.integers(1, 500), warmup_fraction=st.floats(0, 1))
def test_the_learning_rate_stays_between_zero_and_its_peak(
    schedule: Schedule, num_steps: int, warmup_fraction: float
) -> None:
    factors = [learning_rate_factor(step, num_steps, warmup_fraction, schedule) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1
    peak = factors.index(1)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@given(plans(), st.data())
def test_a_run_whose_workers_come_and_go_sees_the_batches_of_an_undisturbed_one(
    plan: TrainingPlan, data: st.DataObject
) -> None:
    """Each attempt has its own number of workers, starts at a checkpoint, and may lose steps that it did."""
    assert plan.lengths is not None
    seen: dict[int, list[int]] = {}
    first = 0
    while first < plan.num_steps:
        num_workers = data.draw(st.integers(1, 5))
        end = data.draw(st.integers(first + 1, plan.num_steps))
        again = TrainingPlan(**{name: getattr(plan, name) for name in TrainingPlan.__dataclass_fields__})
        for step in range(first, end):
            batch = again.batch(step)
            shares = share_batch(batch, plan.lengths[batch], num_workers)
            rows = sorted(row for share in shares for row in share.tolist())
            assert seen.setdefault(step, rows) == rows
        first = data.draw(st.integers(first + 1, end))
    assert [seen[step] for step in range(plan.num_steps)] == [
        sorted(plan.batch(step).tolist()) for step in range(plan.num_steps)
    ]
