"""What the jobs on a night's embeddings print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.analysis.neighbours import Neighbours
    from pipeline.analysis.run import Analysis


def print_analysis(done: Analysis, summary: str) -> None:
    """What was found, in a sentence whose blanks are the result's facts, and where it is."""
    found, facts = done.found, done.found.facts
    print(f"{found.kind} of {found.table}, version {found.version}{'' if done.is_new else ': already there'}")
    print(f"  {summary.format_map(facts)}; {facts['num_without_embedding']:,} without an embedding")
    for uri in found.files.values():
        print(f"  {uri}")
    if done.removed:
        print(f"  replaced earlier and removed now: {len(done.removed):,} files")


def print_neighbours(queries: Sequence[str], found: Sequence[Neighbours]) -> None:
    """A table for each query."""
    for query, near in zip(queries, found, strict=True):
        names = near.rows.column_names
        table = Table("cosine", *names, title=query, title_justify="left")
        for cosine, row in zip(near.cosines, near.rows.to_pylist(), strict=True):
            table.add_row(f"{cosine:.4f}", *(str(row[name]) for name in names))
        Console().print(table)


def describe_neighbours(queries: Sequence[str], found: Sequence[Neighbours]) -> list[dict[str, Any]]:
    """What was found, as JSON says it."""
    return [
        {
            "query": query,
            "rows": [
                {"cosine": cosine, **row} for cosine, row in zip(near.cosines, near.rows.to_pylist(), strict=True)
            ],
        }
        for query, near in zip(queries, found, strict=True)
    ]
