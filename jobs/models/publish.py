"""`bertmill models publish BUNDLE --name NAME`: a bundle -> the next version of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.models.options import open_registry
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, RegistryUri

BundleUri = Annotated[str, typer.Argument(help="the bundle's URI", metavar="BUNDLE", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="the model's name: sentiment", show_default=False)]


def publish(
    bundle: BundleUri, name: Name, registry: RegistryUri = None, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Copy a bundle into the registry as the next version of a model; the same bundle twice is one version."""
    with guarded(debug):
        place = open_registry(registry, endpoint_url)
        version = place.publish(bundle, name)
        print(f"{version}  model_version {place.info(version).model_version}  {version.uri}")
