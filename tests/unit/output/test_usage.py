"""What shards took, summed over a run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import pytest

from pipeline.errors import AccountingError
from pipeline.output.ledger import parse_record
from pipeline.output.usage import PoolUse, ShardUsage, StageTimes, shard_table, sum_usage
from tests.unit.output.records import done_record


def usage(ended_s: float = 0.0, **changes: float) -> ShardUsage:
    return ShardUsage("host:1", ended_s, StageTimes(1.0, 2.0, 4.0, 0.5, 0.5), 1000, 8e12, 3, **changes)  # type: ignore[arg-type]


def test_shards_are_summed_and_the_rest_is_idle() -> None:
    records = [done_record("a", usage=usage(peak_bytes=7)), done_record("b", usage=usage(peak_bytes=5))]
    found = sum_usage(records, PoolUse(2, 1.0, 0.0, 3.6), elapsed_s=20.0)
    assert found.stages == StageTimes(2.0, 4.0, 8.0, 1.0, 1.0)
    assert (found.busy_s, found.idle_s, found.idle_share) == (16.0, 24.0, 0.6)
    assert (found.num_tokens, found.num_padded_tokens, found.num_unknown_tokens) == (140, 160, 6)
    assert (found.rows_per_s, found.tokens_per_s) == (1.0, 7.0)
    assert (found.read_bytes, found.written_bytes, found.peak_bytes) == (2000, 220, 7)
    assert found.model_tflops_per_s == pytest.approx(2.0)
    assert found.cost == pytest.approx(2 * 20 / 3600 * 3.6)
    assert found.cost_per_million_rows == pytest.approx(0.04 / 20 * 1e6)


def test_time_before_the_first_shard_and_after_the_last() -> None:
    now_s = time.time()
    records = [done_record(name, elapsed_s=2.0, usage=usage(now_s - ago)) for name, ago in (("a", 9.0), ("b", 4.0))]
    found = sum_usage(records, PoolUse(1, 1.0, 0.0, None), elapsed_s=30.0)
    assert found.before_s == pytest.approx(30 - 11, abs=1)
    assert found.after_s == pytest.approx(4, abs=1)
    assert (found.cost, found.cost_per_million_rows) == (None, None)


def test_a_run_without_shards_was_all_waiting() -> None:
    found = sum_usage([], PoolUse(1, 1.0, 0.0, 1.0), elapsed_s=3.0)
    assert (found.busy_s, found.idle_share, found.before_s, found.rows_per_s) == (0.0, 1.0, 3.0, 0.0)
    assert found.cost_per_million_rows is None


def test_the_shards_are_a_table_in_the_order_of_their_ends() -> None:
    table = shard_table([done_record("late", usage=usage(20.0)), done_record("early", usage=usage(10.0))])
    assert table["shard"].to_pylist() == ["early", "late"]
    assert table["model_s"].to_pylist() == [4.0, 4.0]
    assert table["written_bytes"].to_pylist() == [110, 110]
    assert shard_table([]).schema == table.schema


def test_a_record_keeps_its_usage_through_json() -> None:
    record = done_record(usage=usage(12.5))
    assert parse_record(json.dumps(asdict(record)), "x") == record


def test_a_record_whose_usage_lacks_a_stage_is_refused() -> None:
    values = asdict(done_record())
    del values["usage"]["stages"]["model_s"]
    with pytest.raises(AccountingError, match="not a done-record: 'model_s'"):
        parse_record(json.dumps(values), "x")
