"""`bertmill submit` to a real cluster with token authentication: once, followed, and ended as the job ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.output.history import read_nights
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.job_server import Cluster, start_cluster
from tests.flow.s3_server import S3Server
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

DASHBOARD = helpers.REPOSITORY / "infra" / "grafana" / "bertmill.json"
SECRET = "secret-that-must-stay-here"
OF_GPUS = {"ray_node_gpus_utilization"}  # there is none here


@pytest.fixture(scope="module")
def cluster(s3_server: S3Server) -> Iterator[Cluster]:
    """Its jobs, and nobody else, know the corpus's credentials, under names that the spec names."""
    running = start_cluster(CORPUS_KEY=s3_server.access_key, CORPUS_SECRET=s3_server.secret_key)
    try:
        yield running
    finally:
        running.stop()


def start(cluster: Cluster, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """One command as a user of the cluster types it."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    here = {**own, **cluster.environment(), "RAY_API_SERVER_ADDRESS": cluster.address, **environment}
    command, pipe = [sys.executable, "-m", "jobs.cli", *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=helpers.REPOSITORY, env=here, stdout=pipe, stderr=pipe, text=True)


def bertmill(cluster: Cluster, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(cluster, *arguments, **environment)
    out, err = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def write_night(directory: Path, server: S3Server) -> tuple[Path, str]:
    """A corpus of 300 rows and a tiny bundle in a bucket, the spec that scores them, and the table's URI."""
    root = f"s3://{server.bucket}/{uuid.uuid4().hex}"
    helpers.write_demo_corpus(f"{root}/corpus", num_files=1)
    make_bundle(directory / "bundle", ("no", "yes"))
    bundle = helpers.upload_directory(directory / "bundle", f"{root}/bundle")
    storage = {
        "endpoint_url": server.endpoint_url,
        "access_key_env": "CORPUS_KEY",
        "secret_key_env": "CORPUS_SECRET",
    }
    spec = helpers.score_spec(bundle, f"{root}/corpus", f"{root}/scores", storage=storage)
    return helpers.write_spec(directory, spec), f"{root}/scores"


def metrics_of(cluster: Cluster) -> set[str]:
    """Names of the metrics that the node's exporter has now."""
    with urllib.request.urlopen(cluster.metrics_url, timeout=10) as answer:
        return set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))


def wanted_metrics() -> set[str]:
    """Those that the dashboard asks for."""
    return set(re.findall(r"\bray_\w+", DASHBOARD.read_text(encoding="utf-8")))


def test_a_night_is_submitted_published_and_not_submitted_twice(
    cluster: Cluster, tmp_path: Path, s3_server: S3Server
) -> None:
    path, table = write_night(tmp_path, s3_server)
    submit = ["submit", "nightly", str(path), "--date", helpers.NIGHT, "--set", "compute.cpus_per_worker=1"]

    refused = bertmill(cluster, *submit, RAY_AUTH_TOKEN="0" * 32)
    assert refused.returncode == 2, refused.stderr
    assert "refused access" in refused.stderr
    assert "RAY_AUTH_TOKEN" in refused.stderr

    killed = start(cluster, *submit, AWS_SECRET_ACCESS_KEY=SECRET)
    assert killed.stdout is not None
    assert "submitted nightly-score-2026-11-23-1" in killed.stdout.readline()
    killed.kill()
    killed.communicate()

    following, seen = start(cluster, *submit), set[str]()
    while following.poll() is None:
        with contextlib.suppress(OSError):  # asked again
            seen |= metrics_of(cluster)
        time.sleep(0.2)
    out, err = following.communicate()
    assert following.returncode == 0, out + err
    assert re.match(r"nightly-score-2026-11-23-1 is already (pending|running|succeeded) at ", out)
    assert "300 = 298 scored + 2 quarantined" in out
    assert "nightly-score-2026-11-23-1 succeeded" in err
    assert wanted_metrics() - OF_GPUS - seen == set()
    (night,) = read_nights(table, Storage())
    assert night.num_rows == 298

    twice = bertmill(cluster, *submit)
    assert twice.returncode == 0, twice.stderr
    assert "nightly-score-2026-11-23-1 is already succeeded" in twice.stdout
    assert "298 scored" in twice.stdout

    listed = bertmill(cluster, "jobs", "--json")
    (job,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (job["submission_id"], job["status"], job["exit_code"]) == ("nightly-score-2026-11-23-1", "SUCCEEDED", 0)
    assert job["metadata"]["bertmill_night"] == helpers.NIGHT
    for secret in (SECRET, cluster.token, s3_server.secret_key):
        assert secret not in listed.stdout + out + err + twice.stdout + twice.stderr


@pytest.mark.slow
def test_a_failed_attempt_ends_with_the_job_s_status_and_a_stopped_one_with_75(
    cluster: Cluster, tmp_path: Path, s3_server: S3Server
) -> None:
    spec = str(write_night(tmp_path, s3_server)[0])
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
