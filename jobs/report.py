"""`bertmill report URI --date D`: a published night beside the one before it, as a page that needs no network."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, Night, TableUri, open_storage

Output = Annotated[str | None, typer.Option(help="a file or URI for the page; default: beside the table's manifests")]
SampleRows = Annotated[int | None, typer.Option(min=1, help="rows of each night to read; default: as the spec said")]


def report(
    uri: TableUri,
    date_: Night,
    output: Output = None,
    sample_rows: SampleRows = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Write a night's report: rows, time, cost, drift, movers, quarantine, lineage."""
    with guarded(debug):
        from pipeline.report.build import build_report
        from pipeline.report.page import render_report
        from pipeline.report.saved import check_drift, save_page, save_report
        from pipeline.report.source import spec_limits

        storage = open_storage(endpoint_url)
        night = parse_date(date_)
        config = spec_limits(uri, night, storage, sample_rows)
        found = build_report(uri, night, config, storage)
        if output is None:
            print(f"report: {save_report(found, storage)}")
        else:
            save_page(output, render_report(found), storage)
            print(f"report: {output}")
        for finding in found.findings:
            print(f"  {finding}")
        check_drift(found.summary)


if __name__ == "__main__":
    typer.run(report)
