"""Runs on paper, against what can be said of them without one."""

from __future__ import annotations

import pytest

from pipeline.studies.schedule import describe_runs, plan_runs, span_of


def test_a_driver_that_costs_nothing_leaves_the_greedy_span() -> None:
    assert span_of([3, 3, 2, 2, 2], num_workers=2, driver_s=0) == 7
    assert span_of([2, 2, 2, 3, 3], num_workers=2, driver_s=0) == 7
    assert span_of([1, 1, 1, 1, 4], num_workers=2, driver_s=0) == 6  # the longest last
    assert span_of([4, 1, 1, 1, 1], num_workers=2, driver_s=0) == 4  # and first


def test_one_worker_waits_for_the_driver_at_every_shard() -> None:
    assert span_of([1.0] * 10, num_workers=1, driver_s=0.5) == 15


def test_more_workers_than_the_driver_can_feed_gain_nothing() -> None:
    """It hands out two shards a second, of a second each: two workers, and none more, are busy."""
    few, many = (span_of([1.0] * 100, number, driver_s=0.5) for number in (4, 64))
    assert few == many == 51


@pytest.mark.parametrize("num_shards", [1, 50, 1_000])
def test_a_run_is_never_shorter_than_at_best(num_shards: int) -> None:
    for run in plan_runs(num_shards, (0.1, 5.0), driver_s=0.01):
        assert min(run.span_s, run.shuffled_span_s) > run.bound_s
        assert 0 < run.efficiency < 1
    assert run.bound_s >= 5.0 * num_shards / run.num_workers


def test_runs_read_as_a_table() -> None:
    table = describe_runs(plan_runs(1_000, (5.0,), driver_s=0.0))
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == ["8", "64", "256"]
