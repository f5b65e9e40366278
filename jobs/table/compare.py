"""`bertmill table diff URI D1 D2`: what changed between two nights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded, preparing
from jobs.table.options import AsJson, Endpoint, TableUri, open_storage

FirstNight = Annotated[str, typer.Argument(help="a night, YYYY-MM-DD", metavar="D1", show_default=False)]
SecondNight = Annotated[str, typer.Argument(help="the night to compare it with", metavar="D2", show_default=False)]


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

        with preparing():
            nights = parse_date(first), parse_date(second)
            found = compare_nights(uri, *nights, open_storage(endpoint_url))
        if json_:
            print(json.dumps(asdict(found), indent=2))
        else:
            print_comparison(found)
