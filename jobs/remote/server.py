"""A cluster's job server: Ray's JobSubmissionClient, with time limits and errors of ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from jobs.remote.states import RemoteJob, from_details
from pipeline.errors import ClusterLostError, ComputeError, first_line

_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_REQUEST_TIMEOUT_S = 60  # Ray's client has none, and a submitting pod would hang with a head node that does
_AGENT_WAIT_S, _AGENT_PAUSE_S = 60.0, 2.0


class JobServer:
    """The job server at an address."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    def find(self) -> list[RemoteJob]:
        """Every job that was submitted to this cluster."""
        with _translated(self.address):
            return [from_details(job) for job in self._client.list_jobs() if job.submission_id]

    def info(self, submission_id: str) -> RemoteJob:
        """One job as it is now."""
        with _translated(self.address):
            return from_details(self._client.get_job_info(submission_id))

    def logs(self, submission_id: str) -> str:
        """Everything that it has printed so far."""
        with _translated(self.address):
            return str(self._client.get_job_logs(submission_id))

    def tail(self, submission_id: str, write: Callable[[str], None], idle_s: float) -> None:
        """Write what it prints, from its start, until it ends or prints nothing for so long."""
        with _translated(self.address):
            asyncio.run(_tail(self._client.tail_job_logs(submission_id), write, idle_s))

    def submit(self, **request: Any) -> bool:
        """Submit; False if another was quicker to take the submission id.

        A cluster that has just started answers before it can run jobs: no new try begins after a minute of them.
        """
        until = time.monotonic() + _AGENT_WAIT_S
        with _translated(self.address):
            while True:
                try:
                    self._client.submit_job(**request)
                    return True
                except RuntimeError as error:
                    if "already exists" in str(error):
                        return False
                    if "No available agent" not in str(error) or time.monotonic() > until:
                        raise
                    time.sleep(_AGENT_PAUSE_S)

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end; False if it had ended."""
        with _translated(self.address):
            return bool(self._client.stop_job(submission_id))


def connect(address: str | None) -> JobServer:
    """The job server at an address, or at the one that Ray's variables name.

    Raises:
        ComputeError: no address, something else is there, or the token is refused.
        ClusterLostError: no answer from there.
    """
    address = address or next((os.environ[name] for name in _ADDRESS_VARIABLES if os.environ.get(name)), "")
    if not address.startswith(("http://", "https://")):
        found = f"{address!r} is not the address of a job server" if address else "no address of a cluster is given"
        raise ComputeError(found, "give --address http://HEAD:8265 (or RAY_API_SERVER_ADDRESS)")
    for name in _ADDRESS_VARIABLES:  # Ray would prefer them to the address it is given
        os.environ.pop(name, None)
    with _translated(address):
        try:
            return JobServer(_client_class()(address), address)
        except (RuntimeError, ValueError, KeyError) as error:  # the answer of something else, or of an old Ray
            found = f"{address} is not the job server of such a Ray: {first_line(error)}"
            raise ComputeError(found, "check --address, and the cluster's version of Ray") from None


def _client_class() -> Any:
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # says how each connection ended

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": _REQUEST_TIMEOUT_S, **options})

    return Client


async def _tail(stream: Any, write: Callable[[str], None], idle_s: float) -> None:
    with contextlib.suppress(StopAsyncIteration, TimeoutError):
        while True:
            write(await asyncio.wait_for(anext(stream), idle_s))


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token"
        raise ComputeError(f"{address} refused access: {first_line(error)}", remedy) from None
    except RuntimeError as error:
        if "status code 404" in str(error):
            raise ComputeError(f"no such job at {address}", "see `bertmill jobs`") from None
        raise ClusterLostError(f"{address}: {str(error)[:500]}", "run the same command again") from None
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        remedy = "check the address, and that the head node's dashboard runs; then run the same command again"
        raise ClusterLostError(f"no answer from {address}: {error}", remedy) from None


def _is_of_the_network(error: Exception) -> bool:
    import aiohttp
    import requests

    return isinstance(error, OSError | aiohttp.ClientError | requests.RequestException)
