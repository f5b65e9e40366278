"""`bertmill table URI`: the nights of a published table."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.session import Debug, guarded, preparing
from pipeline.config import StorageConfig
from pipeline.storage import Storage
from pipeline.uris import canonical_uri


def table(
    uri: Annotated[str, typer.Argument(help="the table's URI")],
    endpoint_url: Annotated[str | None, typer.Option(help="S3 endpoint; default: $AWS_ENDPOINT_URL")] = None,
    debug: Debug = False,
) -> None:
    """Show a table's nights: rows, files, versions, models."""
    with guarded(debug):
        from jobs.printing import print_nights
        from pipeline.output.history import read_nights, table_columns

        storage = Storage(StorageConfig(endpoint_url=endpoint_url))
        with preparing():
            nights = read_nights(uri, storage)
        print(canonical_uri(uri))
        print_nights(nights)
        print("columns: " + ", ".join(f"{field.name} {field.type}" for field in table_columns(uri, storage)))


if __name__ == "__main__":
    typer.run(table)
