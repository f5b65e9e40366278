"""Following through a job server's client that is scripted: what each connection gives, and where it breaks."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests

from jobs.remote.follow import Patience, follow_job
from jobs.remote.server import JobServer
from pipeline.errors import ClusterLostError, ComputeError, InterruptedRunError

QUICK = Patience(idle_s=0.01, lost_s=0, sleep=lambda _seconds: None)
LOG = "one\ntwo\nthree\n"
BROKEN = requests.ConnectionError("connection reset")


class AuthenticationError(Exception):
    """Stands for Ray's."""


@pytest.fixture(autouse=True)
def _ray_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("ray.exceptions")
    module.AuthenticationError = AuthenticationError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", module)


class ScriptedClient:
    """Each connection to the log gives the next script; the job is over when the scripts are used up."""

    def __init__(self, streams: Sequence[Sequence[Any]], answers: Sequence[Any] = ()) -> None:
        self.streams, self.answers = list(streams), list(answers)

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        for part in self.streams.pop(0) if self.streams else (LOG,):
            if isinstance(part, BaseException):
                raise part
            yield part

    def get_job_info(self, job: str) -> Any:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        status = "RUNNING" if self.streams else "SUCCEEDED"
        return SimpleNamespace(
            submission_id=job,
            status=SimpleNamespace(value=status),
            driver_exit_code=None if self.streams else 0,
            error_type=None,
            message=None,
            start_time=None,
            end_time=None,
            metadata={},
        )

    def get_job_logs(self, _job: str) -> str:
        return LOG


def follow(client: ScriptedClient, patience: Patience = QUICK) -> tuple[str, int]:
    written: list[str] = []
    job = follow_job(JobServer(client, "http://head:8265"), "a-1", written.append, patience)
    return "".join(written), job.exit_code


@pytest.mark.parametrize(
    "streams",
    [
        [["one\n", "two\nthree\n"]],
        [["one\n", "two\n"], ["one\ntwo\n", "three\n"]],
        [["one\ntw", BROKEN], ["on", "e\ntwo\n", BROKEN], [LOG]],
        [["one\n", BROKEN]],
        [[BROKEN]],
        [[]],
    ],
)
def test_every_character_is_written_once_however_the_stream_breaks(streams: list[list[Any]]) -> None:
    assert follow(ScriptedClient(streams)) == (LOG, 0)


def test_answers_that_fail_for_a_while_are_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    client = ScriptedClient([["one\n"]], [BROKEN, RuntimeError("status code 500: restarting"), None])
    assert follow(client, replace(QUICK, lost_s=60)) == (LOG, 0)
    assert capsys.readouterr().err.count("trying again") == 2


def test_a_cluster_that_stays_away_ends_with_75() -> None:
    with pytest.raises(ClusterLostError, match="no answer from http://head:8265: connection reset") as caught:
        follow(ScriptedClient([["one\n"]], [BROKEN] * 5))
    assert caught.value.exit_code == 75


def test_a_refused_token_and_an_unknown_job_are_not_tried_again() -> None:
    with pytest.raises(ComputeError, match="refused access: Authentication failed"):
        follow(ScriptedClient([[]], [AuthenticationError("Authentication failed: Forbidden\n\ndetails")]))
    with pytest.raises(ComputeError, match="no such job"):
        follow(ScriptedClient([[]], [RuntimeError("Request failed with status code 404: Job a-1 does not exist")]))


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back() -> None:
    with pytest.raises(InterruptedRunError, match=r"the job goes on\n.*bertmill logs a-1"):
        follow(ScriptedClient([[]], [KeyboardInterrupt()]))
