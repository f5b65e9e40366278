from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.infra.manifests import INFRA

NAMES = ["aws.yaml", "gcp.yaml"]


def config(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((INFRA / "clouds" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_s_own_schema_takes_it(name: str) -> None:
    found = importlib.util.find_spec("pyarrow")  # beside it stands ray, which a unit test may not import
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parents[1] / "ray" / "autoscaler" / "ray-schema.json"
    jsonschema.validate(config(name), json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", NAMES)
def test_workers_are_spot_and_the_head_is_not(name: str) -> None:
    nodes = config(name)["available_node_types"]
    spot = {kind for kind, node in nodes.items() if "spot" in json.dumps(node["node_config"]).lower()}
    assert spot == set(nodes) - {config(name)["head_node_type"]}


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_on_and_the_token_is_a_file(name: str) -> None:
    whole = config(name)
    starts = [*whole["head_start_ray_commands"], *whole["worker_start_ray_commands"]]
    ray_starts = [command for command in starts if "ray start" in command]
    assert len(ray_starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in ray_starts)
    assert whole["file_mounts"] == {"/home/bertmill/.ray/auth_token": "~/.ray/auth_token"}
    for command in starts:
        assert subprocess.run(["bash", "-n"], input=command, text=True).returncode == 0, command
