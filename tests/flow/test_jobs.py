"""The commands as a user types them: plan writes nothing, table and schema print, `python -m` works."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from jobs.schema import SpecName
from tests.flow import helpers
from tests.tiny import make_bundle
from tests.unit.jobs.command_line import run_command

_CLI = """
import sys
sys.argv = ["bertmill", *sys.argv[1:]]
import jobs.cli
jobs.cli.main()
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    helpers.write_demo_corpus(str(tmp_path / "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))
    return helpers.write_spec(tmp_path, spec)


def test_plan_score_plan_table(spec_file: Path, tmp_path: Path) -> None:
    plan = helpers.run_python(_CLI, "plan", str(spec_file), "--date", helpers.NIGHT)
    assert plan.returncode == 0, plan.stderr
    assert "to score: 12 shards, 1,200 rows" in plan.stdout
    assert "by a probe of " in plan.stdout
    assert not (tmp_path / "scores").exists(), "plan writes nothing"

    every_cpu = f"compute.cpus_per_worker={max(4, os.cpu_count() or 1)}"  # all that a local Ray lets workers have
    command = ["score", str(spec_file), "--date", helpers.NIGHT, "--profile", "--set", every_cpu]
    score = helpers.run_python(_CLI, *command)
    assert score.returncode == 0, score.stderr
    assert "published: night 2026-11-23" in score.stdout
    profiles = tmp_path / "scores" / "_profiles" / "run_date=2026-11-23"
    (trace,), (timeline,) = (list(profiles.glob(f"*.{kind}.json.gz")) for kind in ("torch", "ray"))
    assert f"torch trace: {trace}" in score.stdout
    assert f"Ray timeline: {timeline}" in score.stdout
    names = {event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"read", "tokenize", "model", "write", "aten::layer_norm"} <= names
    tasks = [event["name"] for event in json.loads(gzip.decompress(timeline.read_bytes()))]
    assert tasks.count("begin") >= 12, "every shard's beginning is noted by a call"

    after = helpers.run_python(_CLI, "plan", str(spec_file), "--date", helpers.NIGHT)
    assert "nothing to do" in after.stdout, after.stderr
    tomorrow = helpers.run_python(_CLI, "plan", str(spec_file), "--date", "2026-11-24", "--set", every_cpu)
    assert "by night 2026-11-23 of this table" in tomorrow.stdout, tomorrow.stdout + tomorrow.stderr

    table = helpers.run_python(_CLI, "table", "nights", str(tmp_path / "scores"))
    assert table.returncode == 0, table.stderr
    for word in ("2026-11-23", "1,192", "embedding list<"):
        assert word in table.stdout


def test_too_many_bad_rows_publish_nothing(spec_file: Path, tmp_path: Path, alone: None) -> None:
    done = run_command("score", str(spec_file), "--set", "corpus.max_bad_fraction=0.001")
    assert done.exit_code == 3, done.stderr
    assert "8 of 1200 rows cannot be scored" in done.stderr
    assert "text is null" in done.stderr
    assert not list((tmp_path / "scores").glob("_delta_log/*.json"))


def test_schema_describes_every_spec() -> None:
    done = helpers.run_python(_CLI, "schema")
    schemas = json.loads(done.stdout)
    assert set(schemas) == {name.value for name in SpecName}
    assert schemas["score"]["additionalProperties"] is False
