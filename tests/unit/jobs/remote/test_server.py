"""Submitting to a cluster that has just started, and to one that never gets ready."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.remote import server
from jobs.remote.server import JobServer
from pipeline.errors import ClusterLostError

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
