"""`bertmill submit` to a real cluster with token authentication: once, followed, and ended as the job ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.output.history import read_nights
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.job_server import Cluster, start_cluster
from tests.tiny import make_bundle

SECRET = "secret-that-must-stay-here"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    running = start_cluster()
    try:
        yield running
    finally:
        running.stop()


def bertmill(cluster: Cluster, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command as a user of the cluster types it."""
    here = {**os.environ, **cluster.environment(), "RAY_API_SERVER_ADDRESS": cluster.address, **environment}
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(command, cwd=helpers.REPOSITORY, env=here, capture_output=True, text=True, timeout=240)


def write_night(directory: Path) -> Path:
    """A corpus of 300 rows, a tiny bundle, and the spec that scores them."""
    helpers.write_demo_corpus(str(directory / "corpus"), num_files=1)
    make_bundle(directory / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(directory / "bundle"), str(directory / "corpus"), str(directory / "scores"))
    return helpers.write_spec(directory, spec)


def test_a_night_is_submitted_published_and_not_submitted_twice(cluster: Cluster, tmp_path: Path) -> None:
    spec = str(write_night(tmp_path))
    submit = ["submit", "nightly", spec, "--date", helpers.NIGHT, "--set", "compute.cpus_per_worker=1"]

    refused = bertmill(cluster, *submit, RAY_AUTH_TOKEN="0" * 32)
    assert refused.returncode == 2, refused.stderr
    assert "refused access" in refused.stderr
    assert "RAY_AUTH_TOKEN" in refused.stderr

    done = bertmill(cluster, *submit, AWS_SECRET_ACCESS_KEY=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted nightly-score-2026-11-23-1" in done.stdout
    assert "300 = 298 scored + 2 quarantined" in done.stdout
    assert "nightly-score-2026-11-23-1 succeeded" in done.stderr
    (night,) = read_nights(str(tmp_path / "scores"), Storage())
    assert night.num_rows == 298

    twice = bertmill(cluster, *submit)
    assert twice.returncode == 0, twice.stderr
    assert "nightly-score-2026-11-23-1 is already succeeded" in twice.stdout
    assert "298 scored" in twice.stdout

    listed = bertmill(cluster, "jobs", "--json")
    (job,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (job["submission_id"], job["status"], job["exit_code"]) == ("nightly-score-2026-11-23-1", "SUCCEEDED", 0)
    assert job["metadata"]["bertmill_night"] == helpers.NIGHT
    assert SECRET not in listed.stdout
    assert cluster.token not in listed.stdout


@pytest.mark.slow
def test_a_failed_attempt_ends_with_the_job_s_status_and_a_stopped_one_with_75(
    cluster: Cluster, tmp_path: Path
) -> None:
    spec = str(write_night(tmp_path))
    submit = ["submit", "nightly", spec, "--date", "2026-11-24", "--set", "compute.cpus_per_worker=1"]
    failed = bertmill(cluster, *submit, "--set", "corpus.max_bad_fraction=0.001")
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert "nightly-score-2026-11-24-1 failed, exit status 3" in failed.stderr

    started = bertmill(cluster, *submit, "--no-wait")
    assert started.returncode == 0, started.stderr
    assert "submitted nightly-score-2026-11-24-2" in started.stdout
    other = bertmill(cluster, *submit, "--set", "corpus.max_bad_fraction=0.5")
    assert other.returncode == 2
    assert "running with another spec" in other.stderr
    stopped = bertmill(cluster, "stop", "nightly-score-2026-11-24-2")
    assert "stopped, exit status 75" in stopped.stdout, stopped.stderr
    assert bertmill(cluster, "logs", "nightly-score-2026-11-24-2").returncode == 75

    third = bertmill(cluster, *submit, "--pip", "six")  # in a virtual environment of its own
    assert third.returncode == 0, third.stdout + third.stderr
    assert "submitted nightly-score-2026-11-24-3" in third.stdout
