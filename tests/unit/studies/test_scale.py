"""What a driver holds grows with files and shards, and not with rows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.inference.plan import ScorePlan, plan_scoring
from pipeline.storage import map_threads
from pipeline.studies.scale import ScaleCase, measure_case, scale_table, usual_cases

USUAL = ScaleCase(num_files=2_000, rows_per_file=10_000)
TEN_TIMES = replace(USUAL, rows_per_file=100_000, shard_rows=655_360, shard_bytes=10 * USUAL.shard_bytes)


def traced_plan(case: ScaleCase) -> tuple[ScorePlan, int]:
    """A first night's plan, and the most bytes that Python held while it was made."""
    files = [CorpusFile(f"s3://bucket/{index:08d}.parquet", 1, str(index)) for index in range(case.num_files)]
    tracemalloc.start()
    try:
        layouts = [case.layout_of(file) for file in files]
        plan = plan_scoring(cut_shards(layouts, ShardSize(case.shard_rows, case.shard_bytes)), {}, {})
        assert len(plan.pending) == len(plan.shards)
        return plan, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_rows_in_as_many_shards_take_no_more_memory() -> None:
    usual, usual_bytes = traced_plan(USUAL)
    tenfold, tenfold_bytes = traced_plan(TEN_TIMES)
    assert (len(tenfold.shards), tenfold.num_rows) == (len(usual.shards), 10 * usual.num_rows)
    assert tenfold_bytes < 1.3 * usual_bytes, "row groups are counted, rows are not"


def test_a_file_costs_a_driver_less_than_a_kilobyte() -> None:
    _, small_bytes = traced_plan(USUAL)
    _, large_bytes = traced_plan(replace(USUAL, num_files=4 * USUAL.num_files))
    assert (large_bytes - small_bytes) / (3 * USUAL.num_files) < 1_000


def test_pending_shards_are_sorted_once() -> None:
    plan, _ = traced_plan(ScaleCase(50, 10_000))
    assert plan.pending is plan.pending


def test_a_case_is_planned_through_listing_cache_ledger_and_plan() -> None:
    figures = measure_case(ScaleCase(300, 10_000))
    assert 20 < figures.num_shards < 150
    assert figures.total_s > 0
    assert scale_table([figures]).splitlines()[-1].startswith(f"| 300 | 3,000,000 | 65,536 | {figures.num_shards} |")


def test_usual_cases_end_with_as_many_rows_as_the_largest() -> None:
    assert {case.num_rows for case in usual_cases(1_000_000)[2:]} == {10_000_000_000}


def test_threads_take_items_a_few_at_a_time_and_keep_their_order() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = map_threads(lambda item: item * item, items(), num_threads=4, at_once=10)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) == 10
    assert list(results) == [item * item for item in range(3, 100)]


def test_what_a_thread_raises_is_raised() -> None:
    def fail(item: int) -> int:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 7"):
        list(map_threads(fail, [7], num_threads=2))
