"""The watchdog of a shard, and how often a shard may be tried."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest

from pipeline.corpus.deadline import MAX_BEGUN, MAX_OVERDUE, TryBook, Watchdog, check_tries
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import ShardDeadlineError, ShardLostError

# A regular expression that never ends and never lets go of the interpreter's lock.
_HOLDS_THE_LOCK = """
import re
from pipeline.corpus.deadline import Watchdog
with Watchdog(0.1, lambda: None, grace_s=0.1):
    re.match("(a+)+$", "a" * 60 + "b")
"""


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
    assert [book.begin("a").num_begun for _ in range(3)] == [1, 2, 3]
    book.note_overdue("a")
    assert book.begin("b").num_overdue == 0
    assert book.begin("a").num_overdue == 1
    book.end("a")
    assert (book.begin("a").num_begun, book.begin("b").num_begun) == (1, 2)


def test_a_shard_that_never_finishes_is_named_with_its_files() -> None:
    book, shard = TryBook(), shard_of("x.parquet", "y.parquet", "z.parquet", "more.parquet")
    for _ in range(MAX_OVERDUE):
        check_tries(shard, book.begin(shard.name), 30)
        book.note_overdue(shard.name)
    expected = "shard s1 was not done within 30 s, 3 times: /c/x.parquet rows 10-19, .*z.parquet rows 10-19 and 1 more"
    with pytest.raises(ShardDeadlineError, match=expected):
        check_tries(shard, book.begin(shard.name), 30)


def test_a_shard_that_kills_every_process_is_given_up() -> None:
    book, shard = TryBook(), shard_of("x.parquet")
    for _ in range(MAX_BEGUN):
        check_tries(shard, book.begin(shard.name), 30)
    with pytest.raises(ShardLostError, match=re.escape("was begun 10 times")):
        check_tries(shard, book.begin(shard.name), 30)
