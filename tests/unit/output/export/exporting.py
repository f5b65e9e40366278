"""Exports of nights made without a model, and how a reader without Delta sees them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from pipeline.output.export.night import ExportedNight, export_night
from pipeline.output.export.request import ExportRequest, parse_request
from pipeline.output.table import open_table
from tests.unit.output.scored import NIGHT, STORAGE, publish, scored_row, write_shard

Rows = list[dict[str, Any]]


def make_night(
    table: Path | str, num_shards: int = 4, run_date: str = NIGHT, run_id: str = "r1", **changes: Any
) -> None:
    """A night of shards with three rows each."""
    shards = [
        write_shard(
            table, run_date, f"s{index}-{run_id}", [scored_row(f"f{index}", row, **changes) for row in range(3)]
        )
        for index in range(num_shards)
    ]
    publish(table, run_date, *shards, run_id=run_id)


def request(table: Path, target: Path, run_date: str = NIGHT, **changes: Any) -> ExportRequest:
    """Parts of one shard each, unless said otherwise."""
    columns = changes.pop("columns", ())
    asked = parse_request(str(table), run_date, str(target), changes.pop("format", "parquet"), columns)
    return replace(asked, **{"part_bytes": 1, **changes})


def export(table: Path, target: Path, run_date: str = NIGHT, **changes: Any) -> ExportedNight:
    return export_night(request(table, target, run_date, **changes), STORAGE)


def named_files(target: Path, run_date: str = NIGHT) -> list[str]:
    """What the manifest names; nothing if there is none."""
    manifest = target / "_symlink_format_manifest" / f"run_date={run_date}" / "manifest"
    return manifest.read_text().splitlines() if manifest.exists() else []


def standing_files(target: Path, run_date: str = NIGHT) -> list[str]:
    """All data files that there are of a night."""
    return sorted(str(path) for path in (target / f"run_date={run_date}").rglob("*") if path.is_file())


def read_export(target: Path, run_date: str = NIGHT) -> Rows:
    """The rows that the manifest leads to, of Parquet."""
    files = named_files(target, run_date)
    if not files:
        return []
    query = "SELECT * FROM read_parquet(?, hive_partitioning = true) ORDER BY source_file, source_row"
    return list(duckdb.sql(query, params=[files]).to_arrow_table().to_pylist())


def read_csv_export(target: Path, run_date: str = NIGHT) -> Rows:
    """The rows that the manifest leads to, of CSV, as Python's own reader has them."""
    rows: Rows = []
    for path in named_files(target, run_date):
        with open(path, newline="", encoding="utf-8") as stream:
            rows += list(csv.DictReader(stream))
    for row in rows:
        row |= {name: json.loads(row[name]) for name in ("embedding", "class_scores") if row.get(name)}
    return sorted(rows, key=lambda row: (row["source_file"], int(row["source_row"])))


def read_delta(table: Path, run_date: str = NIGHT) -> Rows:
    """The same rows from the table itself."""
    opened = open_table(str(table), STORAGE)
    assert opened is not None
    rows = opened.to_pyarrow_table(partitions=[("run_date", "=", run_date)])
    return list(rows.sort_by([("source_file", "ascending"), ("source_row", "ascending")]).to_pylist())
