"""The measurement of Ray's driver, with a loop in place of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from pipeline.config import PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.studies import stream_scale
from pipeline.studies.stream_scale import RestingWorker, StreamFigures, describe_stream, measure_stream

POOL = PoolOptions(1, 1, 0)


def stream_all_but(num_lost: int) -> object:
    def stream(shards: Sequence[Shard], factory: RestingWorker, _pool: PoolOptions) -> Iterator[pa.Table]:
        assert len({shard.name for shard in shards}) == len(shards)
        worker = factory.build()
        yield from (worker.process(shard) for shard in shards[num_lost:])

    return stream


def test_every_shard_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scale, "stream_shards", stream_all_but(0))
    figures = measure_stream(50, POOL)
    assert figures.num_shards == 50
    assert 0 < figures.first_s <= figures.total_s


def test_a_lost_receipt_spoils_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_scale, "stream_shards", stream_all_but(1))
    with pytest.raises(AssertionError, match="49 receipts of 50 shards"):
        measure_stream(50, POOL)


def test_time_before_the_first_receipt_is_no_shard_s() -> None:
    line = describe_stream(StreamFigures(1_001, 3.0, 5.0, 26.4))
    assert line == ("1,001 shards: first receipt after 3.0 s, all after 5.0 s (2.00 ms a shard), driver grew by 26 MB")
