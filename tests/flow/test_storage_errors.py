"""What a user sees when S3 refuses (exit 2) or is away (exit 75): one message, within seconds, before Ray."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.flow import helpers
from tests.flow.s3_server import S3Server
from tests.tiny import make_bundle

_JOB = """
import sys, jobs.cluster
def no_ray(*arguments):
    raise AssertionError("Ray must not be started")
jobs.cluster.ray_session = no_ray
sys.argv = ["bertmill", *sys.argv[1:]]
import jobs.cli, jobs.night
assert jobs.night.ray_session is no_ray
jobs.cli.main()
"""


@pytest.fixture
def spec_file(s3_server: S3Server, tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    corpus = f"s3://{s3_server.bucket}/errors/corpus"
    helpers.write_demo_corpus(corpus, num_files=1)
    output = f"s3://{s3_server.bucket}/errors/scores"
    return helpers.write_spec(tmp_path, helpers.score_spec(str(tmp_path / "bundle"), corpus, output))


@pytest.mark.parametrize(
    ("variable", "value", "exit_code", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", 2, ["signature", "credentials"]),
        ("AWS_ACCESS_KEY_ID", "nobody", 2, ["access key", "credentials"]),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", 75, ["could not be reached", "endpoint"]),
        ("AWS_ENDPOINT_URL", "http://no-such-host.invalid:8333", 75, ["could not be reached", "endpoint"]),
    ],
)
def test_unusable_store_is_said_in_seconds(
    variable: str, value: str, exit_code: int, words: list[str], spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    started_s = time.monotonic()
    done = helpers.run_python(_JOB, "score", str(spec_file), "--date", helpers.NIGHT)
    assert done.returncode == exit_code, done.stderr
    for word in words:
        assert word in done.stderr.lower()
    assert "->" in done.stderr
    assert "Traceback" not in done.stderr
    assert "flow-test-secret" not in done.stderr + done.stdout
    assert time.monotonic() - started_s < 60, "import and all: far below any hang"


def test_missing_bucket_and_missing_prefix(spec_file: Path, s3_server: S3Server) -> None:
    for uri, word in [
        ("s3://no-such-bucket/corpus", "bucket"),
        (f"s3://{s3_server.bucket}/errors/none", "nothing there"),
    ]:
        done = helpers.run_python(_JOB, "plan", str(spec_file), "--set", f"corpus.uri={uri}")
        assert done.returncode == 2, done.stderr
        assert word in done.stderr


def test_output_that_holds_something_else(spec_file: Path, s3_server: S3Server) -> None:
    uri = f"s3://{s3_server.bucket}/errors/foreign"
    helpers.write_table(helpers.pa.table({"a": [1]}), f"{uri}/report.parquet")
    done = helpers.run_python(_JOB, "score", str(spec_file), "--set", f"output.uri={uri}")
    assert done.returncode == 2
    assert "not a bertmill table" in done.stderr
    assert [item.uri for item in helpers.Storage().list_objects(uri)] == [f"{uri}/report.parquet"]
