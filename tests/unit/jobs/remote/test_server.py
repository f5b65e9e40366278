"""Submitting to a cluster that is away, to one that has just started, and to one that never gets ready."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from jobs.remote import server
from jobs.remote.server import JobServer, connect
from pipeline.errors import BertmillError, ClusterLostError

NOT_READY = "Request failed with status code 500: No available agent to submit job, please try again later.."


class Client:
    """Refuses so many times, then takes the job; `text` is what it refuses with."""

    def __init__(self, num_refusals: int, text: str = NOT_READY) -> None:
        self.num_refusals, self.text, self.num_asked = num_refusals, text, 0

    def submit_job(self, **_request: Any) -> None:
        self.num_asked += 1
        if self.num_asked <= self.num_refusals:
            raise RuntimeError(self.text)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses made, which pass only on the clock that the job server reads."""
    made: list[float] = []
    monkeypatch.setattr(server.time, "sleep", made.append)
    monkeypatch.setattr(server.time, "monotonic", lambda: sum(made))
    return made


def test_a_cluster_without_an_agent_yet_is_waited_for(pauses: list[float]) -> None:
    client = Client(num_refusals=3)
    assert JobServer(client, "http://head").submit(submission_id="a")
    assert (client.num_asked, pauses) == (4, [2.0] * 3)


def test_one_that_never_has_an_agent_is_given_up(pauses: list[float]) -> None:
    client = Client(num_refusals=1_000)
    with pytest.raises(ClusterLostError, match="No available agent"):
        JobServer(client, "http://head").submit(submission_id="a")
    assert (client.num_asked, sum(pauses)) == (32, 62.0)


def test_other_refusals_are_not_repeated(pauses: list[float]) -> None:
    assert not JobServer(Client(1, "status code 500: a job already exists"), "http://head").submit(submission_id="a")
    with pytest.raises(ClusterLostError, match="disk full"):
        JobServer(Client(1, "status code 500: disk full"), "http://head").submit(submission_id="a")
    assert pauses == []


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (ConnectionError("Failed to connect to Ray"), 75, "no answer from http://head:8265: Failed to connect"),
        (requests.Timeout("read timed out"), 75, "no answer from http://head:8265: read timed out"),
        (requests.HTTPError("503 Server Error"), 75, "no answer from http://head:8265: 503"),
        (RuntimeError("Version check returned 404."), 2, "http://head:8265 is not the job server of such a Ray"),
        (requests.JSONDecodeError("Expecting value", "<html>", 0), 2, "is not the job server of such a Ray"),
    ],
)
def test_a_job_server_that_is_away_may_come_back_and_another_server_does_not_turn_into_one(
    error: Exception, exit_code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_address: str) -> None:
        raise error

    monkeypatch.setattr(server, "_client_class", lambda: refuse)
    with pytest.raises(BertmillError, match=words) as caught:
        connect("http://head:8265")
    assert caught.value.exit_code == exit_code
    assert "check" in caught.value.remedy
