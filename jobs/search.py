"""`bertmill search URI --date D --bundle B --query TEXT`: the rows of an indexed night that are nearest to a text."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import AsJson, Endpoint, Night, RegistryUri, open_storage

IndexUri = Annotated[str, typer.Argument(help="where `bertmill index` put it", metavar="URI", show_default=False)]
Bundle = Annotated[str, typer.Option(help="the bundle that scored the night, or models://...", show_default=False)]
Query = Annotated[list[str], typer.Option("--query", help="a text; may be given several times", show_default=False)]
Count = Annotated[int, typer.Option("-k", min=1, max=1_000, help="rows for each text")]


def search(
    uri: IndexUri,
    date_: Night,
    bundle: Bundle,
    query: Query,
    count: Count = 10,
    json_: AsJson = False,
    registry: RegistryUri = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Embed texts with the night's own bundle and print the rows nearest to them, by cosine."""
    with guarded(debug):
        from jobs.analysis_printing import describe_neighbours, print_neighbours
        from pipeline.analysis.neighbours import check_queries, open_index
        from pipeline.encoder.bundle import read_bundle_info
        from pipeline.registry.resolve import resolve_model
        from pipeline.uris import canonical_uri

        storage = open_storage(endpoint_url)
        check_queries(query)
        opened = open_index(canonical_uri(uri), parse_date(date_), storage)
        model = canonical_uri(resolve_model(bundle, registry, storage))
        opened.check_model(read_bundle_info(model, storage).model_version)
        from pipeline.inference.embed import embed_texts  # torch, once the night and the bundle are known to fit

        found = opened.search(embed_texts(model, query, storage), count)
        if json_:
            print(json.dumps(describe_neighbours(query, found), indent=2, default=str))
        else:
            print_neighbours(query, found)


if __name__ == "__main__":
    typer.run(search)
