"""`bertmill models push MODEL --hub REPO|--mlflow PLACE`: a model -> where other tools look for it."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.models.options import open_registry
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, RegistryUri, open_storage
from pipeline.errors import Problem, SpecError
from pipeline.registry.reference import is_reference, parse_reference
from pipeline.registry.resolve import find_version

Pushed = Annotated[str, typer.Argument(help="models://NAME@ALIAS, models://NAME@VERSION, or a bundle's URI")]
Hub = Annotated[str | None, typer.Option("--hub", help="a repository of a Hugging Face hub: ORGANISATION/NAME")]
Public = Annotated[bool, typer.Option("--public", help="a repository that is made now is public")]
Mlflow = Annotated[str | None, typer.Option("--mlflow", help="an MLflow server's address, or a directory")]
As = Annotated[str | None, typer.Option("--as", help="name of the registered model; default: the model's")]
NewAlias = Annotated[str | None, typer.Option("--alias", help="MLflow: an alias that names the version from now on")]


def push(
    model: Pushed,
    hub: Hub = None,
    public: Public = False,
    mlflow: Mlflow = None,
    as_: As = None,
    alias: NewAlias = None,
    registry: RegistryUri = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Copy a model to a Hugging Face hub or to MLflow's registry; the same model again changes nothing."""
    with guarded(debug):
        from pipeline.encoder.bundle import fetch_bundle
        from pipeline.registry.hub import HubTarget, push_to_hub
        from pipeline.registry.mlflow import push_to_mlflow

        if (hub is None) == (mlflow is None):
            raise _misused("--hub", "both or neither of --hub and --mlflow", "--hub REPO, or --mlflow PLACE")
        name = as_ or (parse_reference(model).name if is_reference(model) else None)
        if mlflow is not None and name is None:
            raise _misused("--as", "missing, and a bundle has no name of its own", "--as NAME")
        title, uri = model, model
        if is_reference(model):
            version = find_version(model, open_registry(registry, endpoint_url))
            title, uri = str(version), version.uri
        bundle = fetch_bundle(uri, open_storage(endpoint_url))
        if hub is not None:
            print(f"pushed {title}: {push_to_hub(bundle, title, HubTarget(hub, not public))}")
        elif mlflow is not None and name is not None:
            print(f"pushed {title}: {push_to_mlflow(bundle, title, name, mlflow, alias)}")


def _misused(option: str, found: str, remedy: str) -> SpecError:
    return SpecError("command line", (Problem(option, found, "one place to push to", remedy),))
