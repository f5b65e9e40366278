"""Reads the demo's published night the way an analyst would: DuckDB over the Delta table."""

from __future__ import annotations

from pathlib import Path

import duckdb
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

_TEXT_WIDTH = 72
_COUNTS = """
    SELECT domain, count(*) AS rows,
           count(*) FILTER (label = 'negative') AS negative,
           count(*) FILTER (label = 'neutral') AS neutral,
           count(*) FILTER (label = 'positive') AS positive,
           avg(score) AS mean_score
    FROM night GROUP BY ROLLUP (domain) ORDER BY domain NULLS LAST
"""
_NEIGHBOURS = """
    WITH query AS (SELECT embedding FROM night WHERE id = ?)
    SELECT list_cosine_similarity(night.embedding, query.embedding) AS cosine,
           night.label, night.domain, corpus.text
    FROM night, query JOIN corpus ON corpus.id = night.id
    ORDER BY cosine DESC LIMIT 6
"""


def show_night(table_uri: Path, corpus: Path, run_date: str) -> None:
    """Print label counts by domain, and the nearest neighbours of one text (the first product review) by embedding."""
    night = DeltaTable(table_uri).to_pyarrow_dataset(file_pruning_predicate=[("run_date", "=", run_date)])
    connection = duckdb.connect()
    connection.register("night", night)
    connection.execute(f"CREATE VIEW corpus AS FROM read_parquet('{corpus}/*/*.parquet')")
    (text_id,) = connection.execute("SELECT min(id) FROM night WHERE domain = 'amazon'").fetchall()[0]
    console = Console(width=110)
    _print(console, f"night {run_date}: labels by domain", connection.execute(_COUNTS))
    _print(console, f"nearest neighbours of {text_id} by embedding", connection.execute(_NEIGHBOURS, [text_id]))


def _print(console: Console, title: str, result: duckdb.DuckDBPyConnection) -> None:
    columns = [item[0] for item in result.description or []]
    table = Table(*columns, title=title, title_justify="left")
    for row in result.fetchall():
        table.add_row(*("all" if value is None else _short(value) for value in row))
    console.print(table)


def _short(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 3] + "..."
