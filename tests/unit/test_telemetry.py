from __future__ import annotations

import contextlib
import os
import pty
import re
import sys

import pytest

from pipeline import telemetry
from pipeline.telemetry import PLAIN_INTERVAL_S, Meter, ProgressDisplay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands; its only element is the time in seconds."""
    now_s = [100.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now_s[0])
    return now_s


def test_a_log_gets_plain_lines_at_most_every_few_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay("scoring", 2_000, "rows") as display:
        display.update(100, "too early")
        clock[0] += PLAIN_INTERVAL_S
        display.update(500, "10 rows/s")
        display.update(600, "too early again")
        clock[0] += PLAIN_INTERVAL_S
        display.update(1_000)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 500/2,000 rows (25%), 15 s left; 10 rows/s",
        "scoring: 1,000/2,000 rows (50%), 10 s left",
    ]


def test_what_was_done_before_tells_nothing_of_the_time_that_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay("training", 2_000, "steps", done=1_000) as display:
        clock[0] += PLAIN_INTERVAL_S
        display.update(1_000, "loss 0.5")
        clock[0] += PLAIN_INTERVAL_S
        display.update(1_500, "loss 0.4")
    assert capsys.readouterr().err.splitlines() == [
        "training: 1,000/2,000 steps (50%); loss 0.5",
        "training: 1,500/2,000 steps (75%), 10 s left; loss 0.4",
    ]


def test_a_remark_is_said_at_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("training", 2_000, "steps") as display:
        display.update(100, "too early")
        display.say("by step 100: head fitted [to rows]")
    assert capsys.readouterr().err == "training, by step 100: head fitted [to rows]\n"


def test_the_end_is_always_said_and_only_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("training", 8, "steps") as display:
        display.update(8, "loss 0.1")
        clock[0] += 10 * PLAIN_INTERVAL_S
        display.update(8, "loss 0.1")
    assert capsys.readouterr().err == "training: 8/8 steps (100%); loss 0.1\n"


def test_nothing_goes_to_stdout(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("scoring", 1, "rows") as display:
        display.update(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "scoring: 1/1 rows (100%)\n"


def test_a_meter_gives_rates_since_its_start(clock: list[float]) -> None:
    meter = Meter(started_s=clock[0])
    meter.num_rows, meter.num_tokens = 400, 81_000
    clock[0] += 2
    assert meter.elapsed_s == 2
    assert meter.rates() == "200 rows/s, 40,500 tokens/s"


def test_a_meter_that_has_just_begun_does_not_divide_by_zero(clock: list[float]) -> None:
    assert Meter().rates() == "0 rows/s, 0 tokens/s"


def test_watchers_get_every_piece_of_news_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[telemetry.Progress] = []
    monkeypatch.setattr(telemetry, "watchers", [seen.append])
    with telemetry.ProgressDisplay("scoring", 100, "rows") as display:
        display.update(30, "1 shards", tokens=700)
        display.update(60)
    assert seen == [
        telemetry.Progress("scoring", "rows", 0, 100, {}),
        telemetry.Progress("scoring", "rows", 30, 100, {"tokens": 700}),
        telemetry.Progress("scoring", "rows", 60, 100, {}),
    ]


def read_all(reader: int) -> str:
    """What was written to a terminal whose other end is closed: reads end with an error then, not with nothing."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(reader, 1 << 16):
            parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()


def test_a_terminal_of_80_columns_gets_a_bar_and_everything_that_a_log_has(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    note = "5/6 shards, 7,070 rows/s, 176,706 tokens/s, 1,212 quarantined"
    with os.fdopen(writer, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "xterm")
        with telemetry.ProgressDisplay("scoring", 23_703, "rows") as display:
            display.update(20_000, note)
            display.say("a remark [of its own]")
    seen = read_all(reader)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "\n").split("\n")
    assert any(re.fullmatch(r"scoring [━╸╺]+ 20,000/23,703 rows \(84%\) [-0-9:]+ left *", line) for line in lines)
    assert any(line.rstrip() == f"  {note}" for line in lines)
    assert any(line.rstrip() == "scoring, a remark [of its own]" for line in lines)
    assert max(map(len, lines)) <= 80
