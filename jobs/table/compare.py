"""`bertmill table diff URI D1 D2`, `... beside URI --date D --name N`: what changed between two nights, or models."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import AsJson, Endpoint, Night, TableUri, open_storage

BundleName = Annotated[str, typer.Option("--name", help="its name in the spec's `beside`", show_default=False)]
FirstNight = Annotated[str, typer.Argument(help="a night, YYYY-MM-DD", metavar="D1", show_default=False)]
SecondNight = Annotated[str, typer.Argument(help="the night to compare it with", metavar="D2", show_default=False)]


def beside(
    uri: TableUri,
    date_: Night,
    name: BundleName,
    json_: AsJson = False,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Compare, within a comparison night, a bundle that scored beside the night's own with that one, row by row."""
    with guarded(debug):
        from jobs.table.printing import print_comparison
        from pipeline.output.compare import compare_beside

        found = compare_beside(uri, parse_date(date_), name, open_storage(endpoint_url))
        print_comparison(found, json_)


def diff(
    uri: TableUri,
    first: FirstNight,
    second: SecondNight,
    json_: AsJson = False,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Compare two nights row by row: rows that came and went, labels that flipped, scores and embeddings that moved."""
    with guarded(debug):
        from jobs.table.printing import print_comparison
        from pipeline.output.compare import compare_nights

        nights = parse_date(first), parse_date(second)
        found = compare_nights(uri, *nights, open_storage(endpoint_url))
        print_comparison(found, json_)
