"""The watchdog of a shard, and how often a shard may be tried."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.corpus import deadline
from pipeline.corpus.deadline import (
    MAX_BEGUN,
    MAX_OVERDUE,
    MAX_STARTED,
    MAX_STARVED,
    Place,
    Tries,
    TryBook,
    Watchdog,
    check_starts,
    check_tries,
    count_memory_kills,
)
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import ShardDeadlineError, ShardLostError, WorkerLostError

# A regular expression that never ends and never lets go of the interpreter's lock.
_HOLDS_THE_LOCK = """
import re
from pipeline.corpus.deadline import Watchdog
with Watchdog(0.1, lambda: None, grace_s=0.1):
    re.match("(a+)+$", "a" * 60 + "b")
"""


HERE = Place("host", "worker", 0)


def shard_of(*names: str) -> Shard:
    return Shard("s1", tuple(Piece(CorpusFile(f"/c/{name}", 1, "e"), 10, 20) for name in names), 0)


def test_a_block_in_time_is_left_alone() -> None:
    ended: list[int] = []
    with Watchdog(60, lambda: ended.append(-1), end_process=ended.append):
        pass
    assert ended == []


def test_an_overdue_block_is_noted_and_then_ended(capfd: pytest.CaptureFixture[str]) -> None:
    events: list[object] = []
    ended = threading.Event()

    def end(code: int) -> None:
        events.append(code)
        ended.set()

    with Watchdog(0.01, lambda: events.append("noted"), end_process=end):
        assert ended.wait(10)
    assert events == ["noted", 75]
    assert "test_an_overdue_block" in capfd.readouterr().err, "the stacks say where it hangs"


def test_a_note_that_cannot_be_made_does_not_keep_the_process() -> None:
    ended = threading.Event()

    def note() -> None:
        raise ConnectionError("nobody answers")

    with Watchdog(0.01, note, end_process=lambda _code: ended.set()):
        assert ended.wait(10)


def test_a_block_that_keeps_the_interpreter_to_itself_is_ended_too() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLDS_THE_LOCK], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_tries_are_counted_until_the_shard_is_done() -> None:
    book = TryBook()
    assert [book.begin("a", HERE).num_begun for _ in range(3)] == [1, 2, 3]
    book.note_overdue("a")
    assert book.begin("b", HERE).num_overdue == 0
    assert book.begin("a", HERE).num_overdue == 1
    book.end("a")
    assert (book.begin("a", HERE).num_begun, book.begin("b", HERE).num_begun) == (1, 2)


def test_a_shard_that_never_finishes_is_named_with_its_files() -> None:
    book, shard = TryBook(), shard_of("x.parquet", "y.parquet", "z.parquet", "more.parquet")
    for _ in range(MAX_OVERDUE):
        check_tries(shard, book.begin(shard.name, HERE), 30)
        book.note_overdue(shard.name)
    expected = "shard s1 was not done within 30 s, 3 times: /c/x.parquet rows 10-19, .*z.parquet rows 10-19 and 1 more"
    with pytest.raises(ShardDeadlineError, match=expected):
        check_tries(shard, book.begin(shard.name, HERE), 30)


def test_a_shard_that_kills_every_process_is_given_up() -> None:
    book, shard = TryBook(), shard_of("x.parquet")
    for _ in range(MAX_BEGUN):
        check_tries(shard, book.begin(shard.name, HERE), 30)
    with pytest.raises(ShardLostError, match=re.escape("was begun 10 times")):
        check_tries(shard, book.begin(shard.name, HERE), 30)


@pytest.mark.parametrize(
    ("places", "num_starved"),
    [
        ([Place("a", "w1", 4), Place("a", "w2", 4), Place("a", "w3", 4)], 0),
        ([Place("a", "w1", 4), Place("a", "w2", 5), Place("a", "w3", 7)], 2),
        ([Place("a", "w1", 4), Place("b", "w2", 9), Place("a", "w3", 5)], 0),
        ([Place("a", "killed by Ray", 4), Place("b", "w2", 0), Place("b", "w3", 0)], 1),
        ([Place("a", "killed by Ray", 4), Place("a", "w2", 5)], 1),
    ],
    ids=["crashes", "kernel", "other machines", "monitor", "both"],
)
def test_a_process_that_was_killed_for_memory_is_told_from_one_that_crashed(
    places: list[Place], num_starved: int
) -> None:
    book = TryBook(lambda process: process == "killed by Ray")
    tries = [book.begin("a", place) for place in places]
    assert tries[0] == Tries(1)
    assert (tries[-1].num_begun, tries[-1].num_starved) == (len(places), num_starved)


def test_a_try_that_said_why_it_ended_is_counted_once() -> None:
    book = TryBook(lambda _process: True)
    book.begin("a", HERE)
    book.note_starved("a")
    assert book.begin("a", Place("host", "worker", 9)) == Tries(2, num_starved=1)
    book.note_overdue("a")
    assert book.begin("a", Place("host", "worker", 99)) == Tries(3, num_overdue=1, num_starved=1)


def test_a_shard_that_needs_too_much_memory_is_given_up_sooner_and_says_so() -> None:
    book, shard = TryBook(), shard_of("x.parquet")
    for number in range(MAX_STARVED):
        check_tries(shard, book.begin(shard.name, Place("host", "worker", number)), 30)
    with pytest.raises(
        ShardLostError, match=r"shard s1 ran out of memory, 3 times: /c/x\.parquet rows 10-19"
    ) as raised:
        check_tries(shard, book.begin(shard.name, Place("host", "worker", MAX_STARVED)), 30)
    assert raised.value.exit_code == 75
    assert "corpus.shard_rows" in raised.value.remedy


def test_a_worker_that_never_starts_is_given_up() -> None:
    book = TryBook()
    for _ in range(MAX_STARTED):
        check_starts(book.begin("actor", HERE), 30)
    with pytest.raises(WorkerLostError, match="a worker was started 5 times, and each time its process ended"):
        check_starts(book.begin("actor", HERE), 30)
    book.end("actor")
    check_starts(book.begin("actor", HERE), 30)


@pytest.mark.parametrize(
    ("tries", "words"),
    [
        (Tries(4, num_starved=3), "a worker ran out of memory while it loaded the model, 3 times"),
        (Tries(4, num_overdue=3), "a worker was not ready within 30 s, 3 times"),
    ],
)
def test_why_a_worker_never_starts_is_said(tries: Tries, words: str) -> None:
    with pytest.raises(WorkerLostError, match=words) as raised:
        check_starts(tries, 30)
    assert raised.value.exit_code == 75


def test_the_kernels_kills_are_counted_from_whatever_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_memory_kills() >= 0
    first, second = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(deadline, "_MEMORY_KILLS", (str(first), str(second), str(tmp_path / "none")))
    assert count_memory_kills() == 0
    first.write_text("low 0\nhigh 7\noom 5\noom_kill 3\noom_group_kill 1\n")
    second.write_text("oom_kill_disable 0\nnr_free_pages 12\n")
    assert count_memory_kills() == 3
    second.write_text("nr_free_pages 12\noom_kill 40\ndrop_slab 0\n")
    assert count_memory_kills() == 43
