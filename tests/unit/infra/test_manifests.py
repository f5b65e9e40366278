from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.unit.infra.manifests import KUBERNETES, ROOT, Pod, clusters, cronjob, objects, of_kind, pods, ray_jobs

ALL_PODS = list(pods())
CORE = [(name, each) for name, each in objects() if not each["apiVersion"].startswith("ray.io/")]
RAY = [(name, each) for name, each in objects() if each["apiVersion"].startswith("ray.io/")]
KUBERNETES_VERSION = "1.33"


def schema() -> dict[str, Any]:
    return dict(json.loads((KUBERNETES / "kuberay.schema.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "each"), CORE, ids=[f"{name} {each['kind']}" for name, each in CORE])
def test_core_objects_fit_kubernetes_schemas(name: str, each: dict[str, Any]) -> None:
    kubernetes_validate.validate(each, KUBERNETES_VERSION, strict=True)
    assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "bertmill", name


@pytest.mark.parametrize(("name", "each"), RAY, ids=[name for name, _ in RAY])
def test_ray_objects_fit_the_schema_of_the_fields_used(name: str, each: dict[str, Any]) -> None:
    jsonschema.validate(each, schema())
    assert each["metadata"]["namespace"] == "bertmill", name


@pytest.mark.parametrize("pod", ALL_PODS, ids=[pod.place for pod in ALL_PODS])
def test_pods_fit_kubernetes_schema_and_run_without_privileges(pod: Pod) -> None:
    kubernetes_validate.validate(pod.as_object(), KUBERNETES_VERSION, strict=True)
    assert pod.spec["securityContext"]["runAsNonRoot"] is True
    assert pod.spec["securityContext"]["runAsUser"] == 1000
    assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod.spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.spec.get("volumes", [])}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("authOptions", "mode"), "disabled", "'token' was expected"),
        (("workerGroupSpecs", 0, "maxReplica"), 3, r"\('maxReplica' was unexpected\)"),
        (("rayVersion",), "2.60", "'2.60' does not match"),
    ],
)
def test_the_schema_refuses_what_kuberay_would_drop_or_misread(
    field: tuple[Any, ...], value: object, message: str
) -> None:
    ((_, cluster),) = of_kind("RayCluster")
    broken = json.loads(json.dumps(cluster))
    place = broken["spec"]
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(broken, schema())


def test_secrets_are_named_and_never_held() -> None:
    assert of_kind("Secret") == []
    for pod in ALL_PODS:
        for container in pod.spec["containers"]:
            for variable in container.get("env", []):
                secret = re.search("TOKEN|KEY|PASSWORD|SECRET", variable["name"])
                assert not (secret and "value" in variable), f"{pod.place}: {variable['name']}"
    names = {cluster["authOptions"]["secretName"] for _, cluster in clusters()}
    (submit,) = cronjob()["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (token,) = [each for each in submit["env"] if each["name"] == "RAY_AUTH_TOKEN"]
    assert names == {token["valueFrom"]["secretKeyRef"]["name"]}
    assert token["valueFrom"]["secretKeyRef"]["key"] == "auth_token"


def test_every_pod_is_under_a_network_policy_and_has_an_account() -> None:
    policies = [each["spec"] for _, each in of_kind("NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    roles = {policy["podSelector"]["matchLabels"]["bertmill/role"] for policy in policies if policy["podSelector"]}
    accounts = {each["metadata"]["name"] for _, each in of_kind("ServiceAccount")}
    for pod in ALL_PODS:
        assert pod.labels["bertmill/role"] in roles, pod.place
        assert pod.spec["serviceAccountName"] in accounts, pod.place


def test_ray_s_version_is_the_pinned_one_everywhere() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (ray,) = [pin.removeprefix("ray==") for pin in pins if pin.startswith("ray==")]
    assert {cluster["rayVersion"] for _, cluster in clusters()} == {ray}


def test_gpu_pods_have_the_cuda_image_and_tolerate_gpu_nodes() -> None:
    for pod in ALL_PODS:
        (container,) = pod.spec["containers"]
        has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith("-cuda" if has_gpu else "-cpu"), pod.place
        assert has_gpu == bool(pod.spec.get("tolerations")), pod.place


def test_the_schedule_never_runs_two_at_once_and_retries_only_what_can_pass() -> None:
    spec = cronjob()
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
    job = spec["jobTemplate"]["spec"]
    fatal = job["podFailurePolicy"]["rules"][0]
    assert fatal["action"] == "FailJob"
    assert 75 not in fatal["onExitCodes"]["values"]
    assert {2, 3, 4} <= set(fatal["onExitCodes"]["values"])
    (container,) = job["template"]["spec"]["containers"]
    assert fatal["onExitCodes"]["containerName"] == container["name"]
    assert {"name": "TZ", "value": spec["timeZone"]} in container["env"]


def test_jobs_end_their_clusters() -> None:
    assert len(ray_jobs()) == 3
    for name, job in ray_jobs():
        assert job["shutdownAfterJobFinishes"] is True, name
