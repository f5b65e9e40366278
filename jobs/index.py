"""`bertmill index URI --date D --to URI`: a night's embeddings -> an index of nearest neighbours."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded, stopping_on_sigterm
from jobs.table.options import Endpoint, Night, TableUri
from pipeline.config import parse_spec

Target = Annotated[str, typer.Option("--to", help="where the index goes", show_default=False)]
Column = Annotated[str, typer.Option(help="the column of embeddings; of a named bundle: NAME_embedding")]
Keep = Annotated[str | None, typer.Option(help="columns of the table that searches show: id,label")]
Kind = Annotated[str, typer.Option(help="hnsw (approximate, fast) or flat (exact)", metavar="KIND")]
KeepHours = Annotated[float, typer.Option(min=0, help="hours for which a replaced index stays")]


def index(
    uri: TableUri,
    date_: Night,
    to: Target,
    column: Column = "embedding",
    keep: Keep = None,
    kind: Kind = "hnsw",
    keep_hours: KeepHours = 24,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Build an index of a published night's embeddings, for `bertmill search`."""
    with guarded(debug), stopping_on_sigterm():
        from jobs.analysis_printing import print_analysis
        from pipeline.analysis.run import analyse_index
        from pipeline.analysis.spec import IndexSpec

        names = [name.strip() for name in keep.split(",")] if keep else []
        raw = {"table": uri, "output": to, "column": column, "keep": names, "kind": kind, "keep_hours": keep_hours}
        spec = parse_spec({**raw, "storage": {"endpoint_url": endpoint_url}}, IndexSpec, "command line")
        print_analysis(analyse_index(spec, parse_date(date_)), "{num_rows:,} rows indexed, {kind}")


if __name__ == "__main__":
    typer.run(index)
