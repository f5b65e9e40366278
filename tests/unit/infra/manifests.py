"""The manifests of infra/kubernetes, read once: objects, the Ray clusters in them, and every pod that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest makes: where it stands, its labels, its spec."""

    place: str
    labels: dict[str, str]
    spec: dict[str, Any]

    def as_object(self) -> dict[str, Any]:
        """The pod as Kubernetes' own schema knows it."""
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": self.labels}, "spec": self.spec}


@cache
def objects() -> tuple[tuple[str, dict[str, Any]], ...]:
    """(file name, object), of every manifest."""
    return tuple(
        (path.name, each)
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    )


def of_kind(*kinds: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, each) for name, each in objects() if each["kind"] in kinds]


def ray_jobs() -> list[tuple[str, dict[str, Any]]]:
    """(file name, RayJob spec): those of RayCronJobs too."""
    jobs = [(name, each["spec"]) for name, each in of_kind("RayJob")]
    return jobs + [(name, each["spec"]["jobTemplate"]) for name, each in of_kind("RayCronJob")]


def clusters() -> list[tuple[str, dict[str, Any]]]:
    """(file name, RayCluster spec): those of jobs too."""
    standing = [(name, each["spec"]) for name, each in of_kind("RayCluster")]
    return standing + [(name, job["rayClusterSpec"]) for name, job in ray_jobs()]


def cronjob() -> dict[str, Any]:
    ((_, each),) = of_kind("CronJob")
    return dict(each["spec"])


def pods() -> Iterator[Pod]:
    """Every pod that any manifest makes."""
    for name, cluster in clusters():
        groups = [("head", cluster["headGroupSpec"])]
        groups += [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
        for group_name, group in groups:
            yield _pod(f"{name} {group_name}", group["template"])
    for name, job in ray_jobs():
        yield _pod(f"{name} submitter", job["submitterPodTemplate"])
    yield _pod("cronjob.yaml", cronjob()["jobTemplate"]["spec"]["template"])


def spec_files() -> dict[str, dict[str, Any]]:
    """The specs of the ConfigMap, by the path at which pods see them."""
    ((_, config),) = of_kind("ConfigMap")
    return {f"/etc/bertmill/{name}": yaml.safe_load(text) for name, text in config["data"].items()}


def _pod(place: str, template: dict[str, Any]) -> Pod:
    return Pod(place, template["metadata"]["labels"], template["spec"])
