"""A bundle in MLflow's model registry: its files as artifacts of a run, and a version that names them.

Only MLflow's client is needed (mlflow-skinny): the registry is a server, or a directory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.encoder.bundle import BUNDLE_FILE, Bundle
from pipeline.errors import ComputeError, first_line
from pipeline.extras import check_extra

EXPERIMENT = "bertmill"
_ARTIFACTS = "bundle"
_VERSION_TAG = "bertmill.model_version"


def connect_mlflow(place: str) -> Any:
    """A client of a tracking server and its registry; `place` is an address or a directory."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a directory is what needs neither server nor database
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=place if "://" in place else Path(place).absolute().as_uri())


def find_experiment(client: Any) -> str:
    """The id of bertmill's experiment, or of the one that `MLFLOW_EXPERIMENT_NAME` names; made if it is not there."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def push_to_mlflow(bundle: Bundle, title: str, name: str, place: str, alias: str | None = None) -> str:
    """Make a bundle the newest version of a registered model; the same bundle again is the same version.

    Args:
        bundle: The bundle, on local disk.
        title: Where it comes from, for the version's description.
        name: Of the registered model; made if it is not there.
        place: MLflow's address, or a directory.
        alias: What shall name the version from now on.

    Returns:
        `models:/NAME/VERSION`, whose artifacts are the bundle.

    Raises:
        InputError: MLflow's client is not installed.
        ComputeError: MLflow does not answer, or refuses.
    """
    check_extra("--mlflow needs", "mlflow", {"mlflow": "mlflow-skinny"})
    try:
        client = connect_mlflow(place)
        version = _find_version(client, name, bundle) or _make_version(client, name, bundle, title)
        if alias is not None:
            client.set_registered_model_alias(name, alias, version)
    except Exception as error:
        remedy = "check the address and its access"
        raise ComputeError(f"mlflow: {place} cannot be used: {first_line(error)}", remedy) from None
    return f"models:/{name}/{version}"


def _find_version(client: Any, name: str, bundle: Bundle) -> str | None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
        return None
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(_VERSION_TAG) == bundle.info.model_version and found.status == "READY":
            return str(found.version)
    return None


def _make_version(client: Any, name: str, bundle: Bundle, title: str) -> str:
    """A run with the bundle's files and figures; the version is made last, when all of it is there."""
    info = bundle.info
    made = client.create_run(find_experiment(client), run_name=f"{name} {info.model_version}")
    run_id = made.info.run_id
    for file in sorted(info.files):
        client.log_artifact(run_id, str(bundle.path / file), "/".join([_ARTIFACTS, *Path(file).parts[:-1]]))
    client.log_text(run_id, info.model_dump_json(indent=2), f"{_ARTIFACTS}/{BUNDLE_FILE}")
    for metric, value in info.metrics.items():
        client.log_metric(run_id, f"validation/{metric}".replace("@", "_at_"), value)
    client.set_terminated(run_id)
    tags = {
        _VERSION_TAG: info.model_version,
        "bertmill.task": info.task,
        "bertmill.base_model": info.base_model,
        "bertmill.data": info.data_fingerprint,
        "bertmill.labels": json.dumps(info.labels)[:5000],
    }
    source = f"{made.info.artifact_uri}/{_ARTIFACTS}"
    version = client.create_model_version(name, source, run_id=run_id, tags=tags, description=title)
    return str(version.version)
