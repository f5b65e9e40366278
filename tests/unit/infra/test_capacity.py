"""What a cluster can give covers what the specs that run on it ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from pipeline.config import ComputeConfig, SpecModel, parse_spec
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.spec import ScoreSpec
from tests.unit.infra.manifests import INFRA, clusters, ray_jobs, spec_files

MODELS: dict[str, type[SpecModel]] = {
    "/etc/bertmill/nightly.yaml": ScoreSpec,
    "/etc/bertmill/finetune.yaml": FinetuneSpec,
}

CPUS_OF_A_WORKER = min(spec["compute"]["cpus_per_worker"] for spec in spec_files().values())
# A guess above what was measured (docs/scale.md): a model with its activations, and what Ray and a shard take.
WORKER_BYTES, BASE_BYTES = 8 * 2**30, 2 * 2**30


@dataclass(frozen=True)
class Group:
    """Nodes of one kind: how many there can be, and what each has."""

    max_nodes: int
    cpus: int
    gpus: int

    def workers(self, compute: ComputeConfig) -> int:
        """Workers of a spec that fit on these nodes."""
        assert isinstance(compute.cpus_per_worker, int)
        by_cpu = self.cpus // compute.cpus_per_worker
        return self.max_nodes * (min(by_cpu, self.gpus) if compute.device == "gpu" else by_cpu)


def groups_of(cluster: dict[str, Any]) -> list[Group]:
    found = []
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        requests = container["resources"]["requests"]
        assert requests == container["resources"]["limits"]  # Ray takes what a node has from the limits
        found.append(Group(group["maxReplicas"], int(requests["cpu"]), int(requests.get("nvidia.com/gpu", 0))))
    return found


def spec_of(path: str) -> Any:
    return parse_spec(spec_files()[path], MODELS[path], path)


def shortfall(groups: list[Group], compute: ComputeConfig) -> int:
    """Workers that find no room."""
    assert isinstance(compute.workers, int)
    return max(0, compute.workers - sum(group.workers(compute) for group in groups))


def launcher_groups(name: str) -> list[Group]:
    config = yaml.safe_load((INFRA / "clouds" / name).read_text(encoding="utf-8"))
    nodes = config["available_node_types"]
    assert sum(nodes[kind]["max_workers"] for kind in ("cpu_spot", "gpu_spot")) <= config["max_workers"]
    return [
        Group(nodes[kind]["max_workers"], nodes[kind]["resources"]["CPU"], nodes[kind]["resources"].get("GPU", 0))
        for kind in ("cpu_spot", "gpu_spot")
    ]


@pytest.mark.parametrize("path", list(MODELS))
def test_specs_are_sound_and_leave_nothing_to_what_is_there_at_the_start(path: str) -> None:
    compute = spec_of(path).compute
    assert isinstance(compute.workers, int)
    assert isinstance(compute.cpus_per_worker, int)
    assert compute.device in ("cpu", "gpu")


def test_every_spec_of_the_config_map_has_a_model() -> None:
    assert set(spec_files()) == set(MODELS)


def test_memory_holds_ray_s_object_store_and_the_work() -> None:
    checked = 0
    for name, cluster in clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (container,) = group["template"]["spec"]["containers"]
            requested = container["resources"]["requests"]
            memory_bytes = int(requested["memory"].removesuffix("Gi")) * 2**30
            left_bytes = memory_bytes - int(group["rayStartParams"]["object-store-memory"])
            num_workers = int(requested["cpu"]) // CPUS_OF_A_WORKER
            assert left_bytes >= BASE_BYTES + num_workers * WORKER_BYTES, name
            checked += 1
    assert checked == 9


def test_a_job_s_own_cluster_has_room_for_its_spec_from_the_start() -> None:
    checked = 0
    for name, job in ray_jobs():
        (path,) = [word for word in job["entrypoint"].split() if word.startswith("/etc/bertmill/")]
        cluster = job["rayClusterSpec"]
        assert not cluster.get("enableInTreeAutoscaling"), name
        assert all(group["replicas"] == group["maxReplicas"] for group in cluster["workerGroupSpecs"]), name
        assert shortfall(groups_of(cluster), spec_of(path).compute) == 0, name
        checked += 1
    assert checked == 3


def test_the_standing_cluster_can_grow_to_every_spec() -> None:
    (cluster,) = [cluster for name, cluster in clusters() if name == "raycluster.yaml"]
    assert cluster["enableInTreeAutoscaling"] is True
    for path in MODELS:
        assert shortfall(groups_of(cluster), spec_of(path).compute) == 0, path


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_launched_clusters_can_grow_to_every_spec(name: str) -> None:
    for path in MODELS:
        assert shortfall(launcher_groups(name), spec_of(path).compute) == 0, path


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        ({"workers": 5, "device": "gpu", "cpus_per_worker": 6}, 1),
        ({"workers": 4, "device": "gpu", "cpus_per_worker": 8}, 4),
        ({"workers": 9, "device": "cpu", "cpus_per_worker": 6}, 1),
        ({"workers": 8, "device": "cpu", "cpus_per_worker": 6}, 0),
    ],
)
def test_the_rule_counts_what_does_not_fit(compute: dict[str, Any], expected: int) -> None:
    groups = [Group(4, 7, 0), Group(4, 7, 1)]
    assert shortfall(groups, ComputeConfig.model_validate(compute)) == expected
