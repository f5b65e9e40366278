"""`bertmill history URI`: a table's nights as a page: rows, time, cost, drift, failures, models."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, TableUri, open_storage

Output = Annotated[str | None, typer.Option(help="a file or URI for the page; default: beside the nights' reports")]
Nights = Annotated[int, typer.Option(min=1, help="the newest nights to show")]


def history(
    uri: TableUri,
    output: Output = None,
    nights: Nights = 90,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Write a page of a table's nights."""
    with guarded(debug):
        from pipeline.report.nights import read_table_nights
        from pipeline.report.nights_page import render_nights
        from pipeline.report.saved import save_nights_page, save_page

        storage = open_storage(endpoint_url)
        found = read_table_nights(uri, storage, nights)
        if output is None:
            print(f"history: {save_nights_page(found.uri, render_nights(found, True), storage)}")
        else:
            save_page(output, render_nights(found, False), storage)
            print(f"history: {output}")
        print(f"  nights: {len(found.nights):,}; runs that failed: {len(found.failures):,}")
        if found.unfinished:
            print(f"  begun and not published: {', '.join(found.unfinished)}")


if __name__ == "__main__":
    typer.run(history)
