"""What shards took."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from pipeline.errors import AccountingError
from pipeline.output.ledger import parse_record
from pipeline.output.usage import ShardUsage, StageTimes, WorkerFacts, shard_table
from tests.unit.output.records import done_record


def usage(ended_s: float = 0.0) -> ShardUsage:
    facts = WorkerFacts(1.5, 2.5, "a processor", 2e12, "measured")
    return ShardUsage("host:1", facts, ended_s, StageTimes(1.0, 2.0, 4.0, 0.5, 0.5), "read 0 1000", peak_bytes=5)


def test_the_shards_are_a_table_in_the_order_of_their_ends() -> None:
    table = shard_table([done_record("late", usage=usage(20.0)), done_record("early", usage=usage(10.0))])
    assert table["shard"].to_pylist() == ["early", "late"]
    assert table["model_s"].to_pylist() == [4.0, 4.0]
    assert table["spans"].to_pylist() == ["read 0 1000"] * 2
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


def test_texts_that_every_shard_repeats_are_kept_once() -> None:
    one, other = (parse_record(json.dumps(asdict(done_record(usage=usage()))), "x").usage for _ in range(2))
    assert one.worker is other.worker
    assert one.facts.peak_basis is other.facts.peak_basis
