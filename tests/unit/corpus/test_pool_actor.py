"""What each of Ray Data's worker processes does around a worker, with a stand-in for Ray's calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.corpus import stream
from pipeline.corpus.deadline import MAX_STARTED, Tries, TryBook
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import BertmillError, ComputeError, ShardLostError, WorkerLostError

SHARD = Shard("s1", (Piece(CorpusFile("/c", 1, "e"), 0, 2),), 0)


class Remote:
    """A book whose methods are called as an actor's are."""

    def __init__(self, book: TryBook) -> None:
        self._book = book

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._book, name))


@dataclass
class Worker:
    """Both a recipe and a worker; fails, or ends its process, as it is told."""

    on_build: Callable[[], object] = lambda: None
    on_process: Callable[[], object] = lambda: None

    def build(self) -> Worker:
        self.on_build()
        return self

    def process(self, shard: Shard) -> pa.Table:
        self.on_process()
        return pa.table({"shard": [shard.name]})


class Ended(BaseException):
    """The process is gone."""


def end(*_given: object) -> None:
    raise Ended("the process ended")


def starve() -> None:
    raise MemoryError("no room for 9 bytes")


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> TryBook:
    context = SimpleNamespace(get_actor_id=lambda: "actor", get_worker_id=lambda: "process")
    calls = SimpleNamespace(get=lambda value, timeout=None: value, get_runtime_context=lambda: context)
    monkeypatch.setattr(stream, "ray", calls)
    monkeypatch.setattr(stream.os, "_exit", end)
    return TryBook()


def actor(worker: Worker, book: TryBook) -> stream._PoolActor:
    return stream._PoolActor(worker, 60, Remote(book))


def failure_of(answer: pa.Table) -> BertmillError:
    failure: BertmillError = stream._unpickle(answer, stream._FAILURE)
    return failure


def test_a_shard_that_is_done_leaves_nothing_in_the_book(book: TryBook) -> None:
    answer = actor(Worker(), book)(stream._pickle(stream._SHARD, SHARD))
    assert answer["shard"].to_pylist() == ["s1"]
    assert (book._tries, book._places) == ({}, {})


def test_a_process_that_gets_no_memory_ends_itself_three_times_and_then_the_shard_is_named(
    book: TryBook, capsys: pytest.CaptureFixture[str]
) -> None:
    block = stream._pickle(stream._SHARD, SHARD)
    for number in range(1, 4):
        with pytest.raises(Ended, match="the process ended"):
            actor(Worker(on_process=starve), book)(block)
        assert book._tries["s1"] == Tries(number, num_starved=number)
    assert "no room for 9 bytes" in capsys.readouterr().err, "the worker's log says where"
    failure = failure_of(actor(Worker(on_process=starve), book)(block))
    assert isinstance(failure, ShardLostError)
    assert failure.message.startswith("shard s1 ran out of memory, 3 times")


def test_starts_that_end_the_process_are_counted_for_the_actor_and_forgotten_after_a_good_one(book: TryBook) -> None:
    block = stream._pickle(stream._SHARD, SHARD)
    for _ in range(MAX_STARTED - 1):
        with pytest.raises(Ended, match="the process ended"):
            actor(Worker(on_build=end), book)
    assert actor(Worker(), book)(block)["shard"].to_pylist() == ["s1"]
    for _ in range(MAX_STARTED):
        with pytest.raises(Ended, match="the process ended"):
            actor(Worker(on_build=end), book)
    failure = failure_of(actor(Worker(), book)(block))
    assert isinstance(failure, WorkerLostError)
    assert failure.exit_code == 75


def test_a_start_without_memory_is_said_of_the_first_shard(book: TryBook) -> None:
    failure = failure_of(actor(Worker(on_build=starve), book)(stream._pickle(stream._SHARD, SHARD)))
    assert isinstance(failure, ComputeError)
    assert failure.message == "a worker has no memory to start in: no room for 9 bytes"
