"""The measurement of Ray's part, with a loop in place of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.studies import stream_scale
from pipeline.studies.stream_scale import SleepingWorker, StreamFigures, describe_stream, draw_times, measure_stream

POOL = PoolOptions(1, 1, 0)
FIGURES = StreamFigures(1_001, 4, 3.0, 5.0, 26.4, 0.0, 0.0021, 0.048, 2.0, 0.0)


def stream_all_but(num_lost: int) -> object:
    def stream(shards: Sequence[Shard], factory: SleepingWorker, _pool: PoolOptions) -> Iterator[pa.Table]:
        assert len({shard.name for shard in shards}) == len(shards)
        worker = factory.build()
        yield from (worker.process(shard) for shard in shards[num_lost:])

    return stream


def test_every_shard_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scale, "stream_shards", stream_all_but(0))
    figures = measure_stream(50, POOL)
    assert figures.num_shards == 50
    assert 0 < figures.first_s <= figures.total_s
    assert figures.bound_s == 0


def test_workers_sleep_a_shards_time(monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    monkeypatch.setattr(stream_scale, "stream_shards", stream_all_but(0))
    figures = measure_stream(50, PoolOptions(4, 1, 0), shard_s=2.0)
    assert naps == pytest.approx(draw_times(50, 2.0), abs=1e-5)
    assert figures.bound_s == pytest.approx(25.0)


def test_a_lost_receipt_spoils_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scale, "stream_shards", stream_all_but(1))
    with pytest.raises(AssertionError, match="49 receipts of 50 shards"):
        measure_stream(50, POOL)


def test_times_are_of_the_mean_and_the_longest_comes_first() -> None:
    times = draw_times(1_000, 3.0)
    assert times.mean() == pytest.approx(3.0)
    assert (np.diff(times) <= 0).all()
    assert 3 < times[0] / np.median(times) < 8


def test_what_is_between_two_shards_of_one_worker_is_the_schedulers() -> None:
    gaps = stream_scale._gaps(np.array([7, 8, 7, 8, 7]), np.array([0, 0, 1.5, 4, 3]), np.array([1.0, 3.5, 2.5, 5, 6]))
    assert sorted(gaps) == [0.5, 0.5, 0.5]
    assert stream_scale._gaps(np.array([1]), np.zeros(1), np.ones(1)).tolist() == [0]


def test_time_before_the_first_receipt_is_no_shard_s() -> None:
    assert describe_stream(FIGURES).splitlines() == [
        "1,001 shards, 4 workers: first receipt after 3.0 s, all after 5.0 s (2.00 ms a shard), driver grew by 26 MB",
        "between two shards of a worker 2.1 ms (median), 99 % below 48 ms",
    ]


def test_work_is_told_as_a_share_of_all_workers_time() -> None:
    figures = replace(FIGURES, work_s=72.0, span_s=20.0, bound_s=18.0)
    assert figures.efficiency == pytest.approx(0.9)
    assert describe_stream(figures).splitlines()[-1] == (
        "from the first shard's beginning to the last one's end 20.0 s, at best 18.0 s; "
        "workers were at work 90.0% of it"
    )
