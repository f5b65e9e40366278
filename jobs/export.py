"""`bertmill export URI --date D --to URI`: a published night as plain Parquet or CSV files, or in an Iceberg table."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded, stopping_on_sigterm
from jobs.table.options import AsJson, Endpoint, Night, TableUri, open_storage

Target = Annotated[str, typer.Option("--to", help="where the files go; one place holds one table", show_default=False)]
Format = Annotated[str, typer.Option("--format", help="parquet, csv or iceberg", metavar="FORMAT")]
Columns = Annotated[str | None, typer.Option(help="which columns, in order: id,label,score; default: all")]
Catalog = Annotated[str | None, typer.Option(help="Iceberg: a catalog of pyiceberg's configuration, or its URI")]
TableName = Annotated[str | None, typer.Option("--as", help="Iceberg: namespace.table in the catalog")]
Keep = Annotated[float, typer.Option(min=0, help="remove what was replaced when its successor has stood for H hours")]


def export(
    uri: TableUri,
    date_: Night,
    to: Target,
    format_: Format = "parquet",
    columns: Columns = None,
    catalog: Catalog = None,
    as_: TableName = None,
    keep_hours: Keep = 24,
    json_: AsJson = False,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Write a published night as plain files or into an Iceberg table; one switch shows it, when all is written."""
    with guarded(debug), stopping_on_sigterm():
        from jobs.export_printing import describe_export, print_export
        from pipeline.output.export.night import export_night
        from pipeline.output.export.request import IcebergPlace, parse_request

        storage = open_storage(endpoint_url)
        names = tuple(name.strip() for name in columns.split(",")) if columns else ()
        iceberg = IcebergPlace(catalog or "", as_ or "") if catalog or as_ else None
        request = parse_request(uri, parse_date(date_), to, format_, names, iceberg)
        request = replace(request, keep_s=keep_hours * 3_600)
        done = export_night(request, storage)
        if json_:
            print(json.dumps(describe_export(request, done), indent=2))
        else:
            print_export(request, done)


if __name__ == "__main__":
    typer.run(export)
