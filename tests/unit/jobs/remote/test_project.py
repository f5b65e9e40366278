from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.remote.attempts import Wanted
from jobs.remote.options import JOB_SPECS, RemoteJobName
from jobs.remote.project import Pins, local_places, read_pins, runtime_environment, spec_as_yaml, stage_project
from jobs.remote.submit import _entrypoint, _metadata
from pipeline.config import load_spec, parse_spec
from pipeline.errors import SpecError

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("job", list(RemoteJobName))
def test_a_shipped_spec_is_the_spec_with_its_overrides_and_absolute_places(job: RemoteJobName) -> None:
    name = "score" if job == "nightly" else job.value
    spec = load_spec(ROOT / "jobs" / "specs" / f"{name}.yaml", JOB_SPECS[job])
    shipped = spec_as_yaml(spec)
    assert parse_spec(yaml.safe_load(shipped), JOB_SPECS[job], "shipped") == spec
    assert "demo-data" in shipped
    assert all(place.startswith("/") for place in local_places(yaml.safe_load(shipped)))


def test_overrides_are_in_what_is_shipped() -> None:
    overrides = ["compute.workers=7", "corpus.uri=s3://bucket/corpus"]
    spec = load_spec(ROOT / "jobs" / "specs" / "score.yaml", JOB_SPECS[RemoteJobName.score], overrides)
    shipped = yaml.safe_load(spec_as_yaml(spec))
    assert shipped["compute"] == {"workers": 7}
    assert local_places(shipped["corpus"]) == set()
    assert local_places(shipped["output"]) == {str(Path.cwd() / "demo-data" / "scores")}


def test_the_project_is_two_packages_and_a_spec(tmp_path: Path) -> None:
    stage_project(tmp_path, "a: 1\n", Pins((), "six==1.17.0\n"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["constraints.txt", "jobs", "pipeline", "spec.yaml"]
    assert (tmp_path / "jobs" / "specs" / "score.yaml").exists()
    assert not list(tmp_path.rglob("__pycache__"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 5_000_000


def test_nothing_of_this_machine_s_environment_is_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-value")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hidden-token")
    wanted = Wanted("nightly", "scores", "2026-11-23", "storage: {secret_key_env: AWS_SECRET_ACCESS_KEY}\n")
    environment = runtime_environment(tmp_path, Pins(("six==1.17.0",), "six==1.17.0\n"))
    constraint = "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    assert environment["pip"] == {"packages": ["six==1.17.0", constraint]}
    assert set(environment["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert "hidden" not in json.dumps([environment, _metadata(wanted), _entrypoint(wanted)])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("learning-curve", "c", None), ["python", "-m", "jobs.learning_curve", "spec.yaml"]),
        (("nightly", "s", "2026-11-23"), ["python", "-m", "jobs.nightly", "spec.yaml", "--date", "2026-11-23"]),
    ],
)
def test_the_entrypoint_is_the_job_s_module(wanted: tuple[Any, ...], expected: list[str]) -> None:
    assert shlex.split(_entrypoint(Wanted(*wanted, content=""))) == expected
    assert (ROOT / (expected[2].replace(".", "/") + ".py")).exists()


def test_packages_get_the_constraints_versions(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("hf-xet==1.8.0\nPyYAML==6.0.3\n")
    assert read_pins(["hf_xet", "pyyaml"], path) == Pins(("hf-xet==1.8.0", "PyYAML==6.0.3"), path.read_text())
    with pytest.raises(SpecError, match=r"torch: not in .*constraints\.txt"):
        read_pins(["pyyaml", "torch"], path)
    with pytest.raises(SpecError, match="cannot be read"):
        read_pins(["pyyaml"], tmp_path / "none")
    assert read_pins([], tmp_path / "none") is None
