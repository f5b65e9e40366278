"""The Airflow and Dagster files: loaded with stand-ins for those packages, their commands read by the real parser."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.infra.command_lines import assert_parses
from tests.unit.infra.manifests import INFRA

NIGHT = "2026-11-23"


class Retryable(Exception):
    """The scheduler tries again."""


class Final(Exception):
    """The scheduler does not."""


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def decorator(**_options: Any) -> Any:
    return lambda function: function


def failure(message: str, allow_retries: bool) -> Exception:
    return (Retryable if allow_retries else Final)(message)


def load(path: Path) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace


@pytest.fixture(params=["airflow", "dagster"])
def scheduler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One file's names, after it was loaded."""
    task = lambda **_options: lambda _function: lambda: None  # noqa: E731
    fakes = {
        "airflow": module("airflow"),
        "airflow.sdk": module("airflow.sdk", dag=decorator, task=task),
        "airflow.sdk.exceptions": module("exceptions", AirflowException=Retryable, AirflowFailException=Final),
        "dagster": module(
            "dagster",
            **dict.fromkeys(("asset", "schedule"), decorator),
            **dict.fromkeys(
                ("DailyPartitionsDefinition", "RetryPolicy", "MaterializeResult", "RunRequest", "Definitions"),
                SimpleNamespace,
            ),
            define_asset_job=lambda *_arguments: None,
            Failure=failure,
        ),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    return load(INFRA / request.param / "bertmill_nightly.py")


def test_the_command_is_one_that_bertmill_takes(scheduler: dict[str, Any]) -> None:
    program, *words = scheduler["command"](NIGHT)
    assert program == "bertmill"
    assert_parses(words)
    assert words[-2:] == ["--date", NIGHT]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(0, None), (6, None)]
    + [(code, Retryable) for code in (75, 1, 137, 143, -9)]
    + [(code, Final) for code in (2, 3, 4, 5, 8)],
)
def test_only_what_can_pass_is_tried_again(
    scheduler: dict[str, Any], code: int, expected: type[Exception] | None
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=code)

    scheduler["subprocess"] = SimpleNamespace(run=run)
    if expected is None:
        scheduler["score_night"](NIGHT)
    else:
        with pytest.raises(expected, match="exit status"):
            scheduler["score_night"](NIGHT)
    assert asked == [scheduler["command"](NIGHT)]
