"""Real parts for the flow tests: one S3 server, one local Ray, and a place to write on each kind of store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.alone import without_ray
from tests.flow.s3_server import S3Server, start_server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; the standard AWS variables of this process point to it."""
    server = start_server(tmp_path_factory.mktemp("s3"))
    before = dict(os.environ)
    os.environ.update(server.environment())
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


@pytest.fixture(scope="session")
def ray_local(s3_server: S3Server) -> Iterator[None]:
    """One local Ray for the whole run, started after the S3 variables are set so that its workers have them."""
    import ray

    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray: for what a night holds and what a table is made of, which do not depend on who ran the shards."""
    without_ray(monkeypatch)


@pytest.fixture(params=["local", "s3"])
def root_uri(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server) -> str:
    """An empty place: a local directory, or a prefix on the S3 server."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
