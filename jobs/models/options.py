"""What the commands about models are told."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.table.options import open_storage
from pipeline.registry.reference import find_registry
from pipeline.registry.versions import Registry

ModelName = Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS", metavar="MODEL", show_default=False)]


def open_registry(uri: str | None, endpoint_url: str | None) -> Registry:
    """The registry of a command line.

    Raises:
        ModelError: none is named.
    """
    return Registry(find_registry(uri), open_storage(endpoint_url))
