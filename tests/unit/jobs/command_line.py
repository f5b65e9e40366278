"""Runs `bertmill` in this process with a Ray that refuses to start."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from typer.main import get_command
from typer.testing import CliRunner

from jobs.cli import app

# The runner builds all commands anew for each call, which takes longer than most calls.
_built_command = functools.cache(get_command)


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


def run_command(*arguments: str) -> Finished:
    """Run one `bertmill` command; an exception that no user should see is raised here."""
    with mock.patch("typer.testing._get_command", _built_command):
        result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


def models(*arguments: str) -> str:
    """What `bertmill models ...` prints, which must succeed."""
    finished = run_command("models", *arguments)
    assert finished.exit_code == 0, finished.stderr
    return finished.stdout


def write_spec(path: Path, raw: dict[str, Any]) -> str:
    """Write a spec; returns its path as the command line takes it."""
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return str(path)


def assert_refused(finished: Finished, *expected: str) -> None:
    """Exit code 2, nothing on stdout, one error on stderr with these words, a remedy and no traceback."""
    assert finished.exit_code == 2, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: ")
    assert "\n  -> " in finished.stderr
    assert "Traceback" not in finished.stderr
    for words in expected:
        assert words in finished.stderr
