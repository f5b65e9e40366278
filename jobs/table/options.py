"""What the table commands are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline.config import StorageConfig
from pipeline.errors import Problem, SpecError
from pipeline.storage import Storage

TableUri = Annotated[str, typer.Argument(help="the table's URI", metavar="URI", show_default=False)]
Endpoint = Annotated[str | None, typer.Option(help="S3 endpoint; default: $AWS_ENDPOINT_URL")]
Night = Annotated[str, typer.Option("--date", help="the night, YYYY-MM-DD", show_default=False)]
RegistryUri = Annotated[str | None, typer.Option("--registry", help="URI of the registry; default: $BERTMILL_REGISTRY")]
AnyNight = Annotated[str | None, typer.Option("--date", help="one night, YYYY-MM-DD; default: all")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def open_storage(endpoint_url: str | None) -> Storage:
    """The store behind a table, from the command line and the standard AWS variables."""
    return Storage(StorageConfig(endpoint_url=endpoint_url))


def parse_inputs(pairs: Sequence[str]) -> dict[str, str]:
    """`INPUT=COLUMN` as a mapping.

    Raises:
        SpecError: one of them is no such pair.
    """
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise SpecError("command line", (Problem("--input", repr(wrong[0]), "INPUT=COLUMN, as in text=body"),))
    return dict(pair.split("=", 1) for pair in pairs)
