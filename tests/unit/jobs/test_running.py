"""What surrounds a job: lines as JSON, and word of how it ended."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.running import running
from pipeline.errors import InterruptedRunError, NightTakenError, TooManyBadRowsError
from tests.unit.jobs.command_line import run_command, write_spec

SCRIPT = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> Any:
    """What the notification's command was given, read when asked for; waiting for that command counts as a nap."""
    program = tmp_path / "tell.py"
    program.write_text(SCRIPT)
    monkeypatch.setenv("BERTMILL_NOTIFY_COMMAND", f"{sys.executable} {program} {tmp_path / 'told.json'}")
    return lambda: json.loads((tmp_path / "told.json").read_text())


def test_success_is_told(told: Any) -> None:
    with running("nightly", "scores.yaml", False, "2026-11-23"):
        pass
    ending = told()
    assert (ending["job"], ending["spec"], ending["night"]) == ("nightly", "scores.yaml", "2026-11-23")
    assert (ending["exit_code"], ending["message"]) == (0, "")
    assert ending["text"].startswith("bertmill nightly scores.yaml 2026-11-23 succeeded after 0 s on ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TooManyBadRowsError("8 of 1200 rows cannot be scored", "look"), 3),
        (InterruptedRunError("stopped by SIGTERM"), 75),
        (NightTakenError("another run is at work"), 0),
        (SystemExit(6), 6),
        (KeyboardInterrupt(), 130),
        (SystemExit(), 0),
    ],
)
def test_failures_are_told_with_the_exit_status_that_the_job_ends_with(
    told: Any, error: BaseException, code: int
) -> None:
    with pytest.raises(SystemExit, match=rf"^{code or '0?'}$"), running("score", "s.yaml", False):
        raise error
    assert told()["exit_code"] == code
    assert told()["message"] == ("" if isinstance(error, SystemExit) else str(error))


def test_a_spec_that_cannot_be_read_is_told_too(told: Any, tmp_path: Path) -> None:
    finished = run_command("nightly", str(tmp_path / "none.yaml"), "--date", "2026-11-23")
    assert (finished.exit_code, told()["exit_code"]) == (2, 2)
    assert "does not exist" in told()["text"]


def test_a_webhook_gets_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def urlopen(request: Any, timeout: float) -> Any:
        asked.append(request)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("BERTMILL_NOTIFY_URL", "https://example.com/hook/secret")
    with running("suite", "suite.yaml", False):
        pass
    (request,) = asked
    assert request.full_url == "https://example.com/hook/secret"
    assert request.get_header("Content-type") == "application/json"
    assert json.loads(request.data)["job"] == "suite"


@pytest.mark.parametrize(
    ("variable", "target"),
    [("BERTMILL_NOTIFY_URL", "file:///etc/secret-place"), ("BERTMILL_NOTIFY_COMMAND", "/no/such/secret-place")],
)
def test_a_notification_that_fails_changes_nothing_and_shows_no_address(
    variable: str, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, target)
    with running("score", "s.yaml", False):
        print("work")
    out, err = capsys.readouterr()
    assert out == "work\n"
    assert f"note: {variable} could not be told" in err
    assert "secret-place" not in err


def print_and_fail() -> None:
    with running("score", "s.yaml", False):
        print("published: night 2026-11-23", 7)
        print('{"message": "already JSON"}')
        print("note: careful", file=sys.stderr)
        assert not sys.stderr.isatty()
        raise TooManyBadRowsError("too many", "look into it")


def test_lines_are_json_objects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BERTMILL_LOG_FORMAT", "json")
    with pytest.raises(SystemExit, match="3"):
        print_and_fail()
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["level"], first["stream"], first["message"]) == ("info", "stdout", "published: night 2026-11-23 7")
    assert second == {"message": "already JSON"}
    warning, error = map(json.loads, err.splitlines())
    assert (warning["level"], warning["message"]) == ("warning", "careful")
    assert (error["level"], error["message"]) == ("error", "too many\n  -> look into it")
    print("after")
    assert capsys.readouterr().out == "after\n"


def test_an_unknown_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score_raw: dict[str, Any]
) -> None:
    monkeypatch.setenv("BERTMILL_LOG_FORMAT", "xml")
    finished = run_command("score", write_spec(tmp_path / "s.yaml", score_raw))
    assert finished.exit_code == 2
    assert "BERTMILL_LOG_FORMAT: 'xml'; expected text or json" in finished.stderr
