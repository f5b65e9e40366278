"""plan_scoring subtracts exactly the finished shards whose files stand."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.inference.plan import plan_scoring, quarantine_files, scored_files
from pipeline.output.ledger import DoneRecord

NAMES = [f"shard-{index}" for index in range(12)]
STATES = st.sampled_from(["no record", "done", "only bad rows", "file gone", "file cut", "bad rows gone"])


def shard(name: str, num_rows: int) -> Shard:
    return Shard(name, (Piece(CorpusFile(f"/{name}", 1, "e"), 0, num_rows),), num_rows * 10)


def record(name: str, path: str | None, quarantine_path: str | None) -> DoneRecord:
    return DoneRecord(
        shard=name,
        path=path,
        size_bytes=10 if path else 0,
        num_scored_rows=3 if path else 0,
        quarantine_path=quarantine_path,
        quarantine_size_bytes=5 if quarantine_path else 0,
        num_quarantined_rows=2 if quarantine_path else 0,
        num_tokens=9,
        num_padded_tokens=9,
        num_truncated_rows=0,
        run_id="r",
        elapsed_s=0.1,
    )


def ledger_and_files(states: dict[str, str]) -> tuple[dict[str, DoneRecord], dict[str, int]]:
    records, sizes = {}, {}
    for name, state in states.items():
        if state == "no record":
            continue
        path = None if state == "only bad rows" else f"{name}.parquet"
        records[name] = record(name, path, f"bad-{name}.parquet")
        if path and state != "file gone":
            sizes[path] = 9 if state == "file cut" else 10
        if state != "bad rows gone":
            sizes[f"_quarantine/bad-{name}.parquet"] = 5
    return records, sizes


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 50)),
    st.dictionaries(st.sampled_from(NAMES), STATES),
)
def test_done_and_pending_partition_the_corpus(corpus: dict[str, int], states: dict[str, str]) -> None:
    shards = [shard(name, num_rows) for name, num_rows in corpus.items()]
    records, sizes = ledger_and_files(states)
    plan = plan_scoring(shards, records, sizes)
    sound = {name for name, state in states.items() if state in ("done", "only bad rows")}
    broken = {name for name, state in states.items() if state not in ("done", "only bad rows", "no record")}
    assert plan.done == {name: records[name] for name in sound & corpus.keys()}
    assert {item.name for item in plan.pending} == corpus.keys() - sound
    assert set(plan.stale) == broken & corpus.keys()
    assert plan.num_rows == sum(corpus.values())
    assert plan.num_pending_rows == sum(rows for name, rows in corpus.items() if name not in sound)


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 50)), st.randoms(use_true_random=False))
def test_pending_shards_come_largest_first_in_any_listing_order(corpus: dict[str, int], draw: random.Random) -> None:
    shards = [shard(name, num_rows) for name, num_rows in corpus.items()]
    shuffled = draw.sample(shards, len(shards))
    pending = plan_scoring(shuffled, {}, {}).pending
    assert [item.num_rows for item in pending] == sorted(corpus.values(), reverse=True)
    assert pending == plan_scoring(shards, {}, {}).pending


@given(st.dictionaries(st.sampled_from(NAMES), STATES))
def test_a_night_names_each_file_of_its_records_once(states: dict[str, str]) -> None:
    records, _ = ledger_and_files(states)
    scored, bad = scored_files(records.values()), quarantine_files(records.values())
    assert {file.path for file in scored} == {item.path for item in records.values() if item.path}
    assert len(bad) == len(records)
    assert sum(file.num_rows for file in (*scored, *bad)) == sum(item.num_rows for item in records.values())
