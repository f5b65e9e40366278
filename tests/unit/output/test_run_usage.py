"""What workers did with the time that a run paid for."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.output import run_usage
from pipeline.output.ledger import DoneRecord
from pipeline.output.run_usage import PoolUse, sum_usage
from pipeline.output.usage import ShardUsage, StageTimes, WorkerFacts
from pipeline.output.workers import IdleTimes, worker_table
from tests.unit.output.records import done_record

END_S = 1_000.0
WORK = StageTimes(read_s=1, tokenize_s=2, model_s=5, write_s=1, other_s=1)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_usage.time, "time", lambda: END_S)


def record(worker: str, start_s: float, stop_s: float, stages: StageTimes, **changes: Any) -> DoneRecord:
    """A shard of 10 rows and 70 tokens, by a worker that is ready at 910 and does 2 TFLOP/s at most."""
    usage = {"facts": WorkerFacts(900.0, 910.0, "a GPU", 2e12, "a data sheet"), "flops": 4e12, **changes}
    made = ShardUsage(worker=worker, ended_s=stop_s, stages=stages, read_bytes=1000, num_unknown_tokens=3, **usage)
    return done_record(f"{worker}-{start_s}", elapsed_s=stop_s - start_s, usage=made)


def test_every_second_of_a_worker_is_accounted_for() -> None:
    records = [record("host:1", 920, 930, WORK)]
    found, (worker,) = sum_usage(records, PoolUse(1, 1.0, 0.0, 3.6), elapsed_s=150.0)
    assert found.stages == WORK
    assert (found.busy_s, found.idle_s) == (10, 140)
    assert found.idle == IdleTimes(planning_s=50, loading_s=10, scheduler_s=10, ending_s=70, unused_s=0)
    assert found.busy_s + found.idle.all_s == 150
    assert (found.before_s, found.after_s) == (70, 70)
    assert (worker.stages, worker.idle, worker.device) == (found.stages, found.idle, "a GPU")
    assert (worker.rows_per_s, worker.tokens_per_s) == (10 / 20, 70 / 20)
    assert found.cost == pytest.approx(150 / 3600 * 3.6)
    assert found.cost_per_million_rows == pytest.approx(0.15 / 10 * 1e6)


def test_utilisation_is_of_what_the_devices_could_have_done() -> None:
    records = [record(f"host:{index}", 910, 920, StageTimes(model_s=4, other_s=6)) for index in range(2)]
    found, workers = sum_usage(records, PoolUse(2, 1.0, 1.0, None), elapsed_s=100.0)
    assert found.model_tflops_per_s == workers[0].model_tflops_per_s == 1.0
    assert found.model_flop_utilisation == workers[1].model_flop_utilisation == 0.5
    assert found.run_flop_utilisation == pytest.approx(8 / (2 * 200))
    assert found.peak_basis == "a data sheet"


def test_without_a_known_peak_utilisation_is_not_said() -> None:
    records = [record("host:1", 910, 920, StageTimes(model_s=4, other_s=6), facts=WorkerFacts(900.0, 910.0))]
    found, (worker,) = sum_usage(records, PoolUse(1, 1.0, 0.0, None), elapsed_s=100.0)
    assert (found.model_flop_utilisation, found.run_flop_utilisation, worker.model_flop_utilisation) == (None,) * 3


def test_a_worker_in_anothers_place_is_paid_from_its_own_beginning() -> None:
    first = record("host:1", 910, 920, StageTimes(model_s=9, other_s=1))
    late = WorkerFacts(940.0, 950.0, "a GPU", 2e12, "a data sheet")
    second = record("host:2", 950, 960, StageTimes(model_s=9, other_s=1), facts=late)
    found, (one, other) = sum_usage([second, first], PoolUse(1, 1.0, 0.0, None), elapsed_s=110.0)
    assert one.idle == IdleTimes(planning_s=10, loading_s=10, ending_s=0)
    assert other.idle == IdleTimes(planning_s=0, loading_s=10, ending_s=40)
    assert found.idle.unused_s == 20, "from the first one's last shard to the second one's beginning"
    assert found.busy_s + found.idle.all_s == 110


def test_a_worker_that_finished_nothing_was_not_used() -> None:
    found, workers = sum_usage(
        [record("host:1", 910, 920, StageTimes(other_s=10))], PoolUse(3, 1.0, 0.0, None), elapsed_s=100.0
    )
    assert len(workers) == 1
    assert found.idle.unused_s == 200
    assert found.stages == StageTimes(other_s=10)


def test_a_run_without_shards_was_all_waiting() -> None:
    found, workers = sum_usage([], PoolUse(1, 1.0, 0.0, 1.0), elapsed_s=3.0)
    assert (found.busy_s, found.idle_share, found.before_s, found.rows_per_s, workers) == (0.0, 1.0, 3.0, 0.0, [])
    assert (found.idle.unused_s, found.cost_per_million_rows, found.model_flop_utilisation) == (3.0, None, None)


def test_a_record_without_word_of_its_worker_begins_with_its_shard() -> None:
    used = ShardUsage("host:1", ended_s=END_S - 4, stages=StageTimes(other_s=2))
    found, (worker,) = sum_usage([done_record(elapsed_s=2.0, usage=used)], PoolUse(1, 1.0, 0.0, None), 30.0)
    assert (found.before_s, found.after_s) == (24, 4)
    assert worker.idle == IdleTimes(planning_s=24, ending_s=4)


def test_workers_are_a_table() -> None:
    _, workers = sum_usage(
        [record("host:1", 910, 920, StageTimes(model_s=4, other_s=6))], PoolUse(1, 1.0, 0.0, None), 100.0
    )
    (row,) = worker_table(workers).to_pylist()
    assert (row["worker"], row["model_s"], row["other_s"], row["loading_s"]) == ("host:1", 4.0, 6.0, 10.0)
    assert worker_table([]).schema == worker_table(workers).schema
