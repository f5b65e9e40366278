"""`bertmill models list|show|trace`: what there is, where it came from, and what scored a night."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.models.options import ModelName, open_registry
from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, Night, RegistryUri, TableUri
from pipeline.errors import ModelError
from pipeline.registry.aliases import Alias, list_aliases
from pipeline.registry.reference import parse_reference
from pipeline.registry.resolve import find_version

OneName = Annotated[str | None, typer.Argument(help="one model; default: all", metavar="[NAME]")]


def list_models(
    name: OneName = None, registry: RegistryUri = None, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Print models, their versions and the aliases that name them."""
    with guarded(debug):
        place = open_registry(registry, endpoint_url)
        names = place.names()
        if not names:
            raise ModelError(f"no registry at {place.uri}: no model was ever published there", "check the URI")
        if name is not None and name not in names:
            raise ModelError(f"{place.uri}: no model {name}; there are: {', '.join(names)}", "name one of them")
        for model in [name] if name else names:
            aliases = {alias: Alias(place, model, alias).now().version for alias in list_aliases(place, model)}
            for version in place.versions(model):
                named = "".join(f" @{alias}" for alias, number in aliases.items() if number == version.number)
                print(f"{version}  {place.info(version).model_version}  {version.claim.published_at}{named}")


def show(model: ModelName, registry: RegistryUri = None, endpoint_url: Endpoint = None, debug: Debug = False) -> None:
    """Print what a version is, what it learned from, and where an alias has been."""
    with guarded(debug):
        from jobs.models.printing import print_version

        place, wanted = open_registry(registry, endpoint_url), parse_reference(model)
        version = find_version(model, place)
        print_version(version, place.info(version))
        for move in Alias(place, wanted.name, wanted.alias).history() if wanted.alias else []:
            print(f"  {move.moved_at}  {model} -> {move.version}  {'; '.join(move.gates)}".rstrip())


def trace(
    uri: TableUri, date_: Night, registry: RegistryUri = None, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Print which versions scored a night, and what they learned from."""
    with guarded(debug):
        from jobs.models.printing import print_trace

        print_trace(uri, parse_date(date_), open_registry(registry, endpoint_url))
