"""Scored nights as a run leaves them: files with footers, done-records, quarantine, manifest; made without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.table import DataFile, Night, publish_night
from pipeline.output.writer import write_parquet
from pipeline.schema import QUARANTINE_SCHEMA, SCORES_TYPE, BundleFields, file_schema, scored_schema
from pipeline.storage import Storage

STORAGE = Storage()
FINGERPRINT = "f" * 64
NIGHT, NEXT_NIGHT = "2026-11-23", "2026-11-24"
TASK_FIELDS = (pa.field("label", pa.string()), pa.field("score", pa.float32()), pa.field("class_scores", SCORES_TYPE))
SCHEMA = scored_schema(pa.schema([pa.field("id", pa.string())]), [BundleFields("", TASK_FIELDS, with_embedding=True)])
Row = dict[str, Any]


def scored_row(source_file: str, source_row: int, **changes: Any) -> Row:
    return {
        "source_file": source_file,
        "source_row": source_row,
        "id": f"{source_file}-{source_row}",
        "label": "good" if source_row % 2 else "bad",
        "score": 0.75,
        "class_scores": [0.25, 0.75],
        "embedding": [1.0, float(source_row), 0.5],
        "num_tokens": 5,
        "truncated": False,
        "num_windows": 1,
        "model_version": "m1",
        "run_id": "r1",
        **changes,
    }


def write_shard(
    table: Path | str, run_date: str, shard: str, rows: list[Row], bad: list[Row] | None = None, **footer: str
) -> DoneRecord:
    """One shard's file (and quarantine file), with a claimed done-record."""
    path = f"run_date={run_date}/{shard}-0.parquet"
    facts = {"fingerprint": FINGERPRINT, "model_version": "m1", "run_id": "r1", **footer}
    marks = {f"bertmill.{key}": value for key, value in facts.items()}
    size = write_parquet(pa.Table.from_pylist(rows, file_schema(SCHEMA)), f"{table}/{path}", marks, STORAGE).size_bytes
    bad_size = 0
    if bad:
        reasons = [{**row, "reason": "text is null"} for row in bad]
        columns = file_schema(QUARANTINE_SCHEMA)
        written = write_parquet(pa.Table.from_pylist(reasons, columns), f"{table}/_quarantine/{path}", marks, STORAGE)
        bad_size = written.size_bytes
    record = DoneRecord(
        shard, path, size, len(rows), path if bad else None, bad_size, len(bad or []), 5 * len(rows), 0, 0, "r1", 0.1
    )
    return Ledger(str(table), run_date, facts["fingerprint"], STORAGE).claim(record)


def publish(
    table: Path | str, run_date: str, *records: DoneRecord, run_id: str = "r1", etags: Mapping[str, str | None] = {}
) -> None:
    """One night of these shards, and its manifest; corpus files have etag `v1`, another, or (None) are not named."""
    facts = {"run_date": run_date, "run_id": run_id, "fingerprint": FINGERPRINT, "model_version": "m1"}
    scored = [DataFile(record.path, record.size_bytes, record.num_scored_rows) for record in records if record.path]
    bad = [
        DataFile(record.quarantine_path, record.quarantine_size_bytes, record.num_quarantined_rows)
        for record in records
        if record.quarantine_path
    ]
    if bad:
        publish_night(f"{table}/_quarantine", Night(run_date, tuple(bad), QUARANTINE_SCHEMA, facts), STORAGE)
    published = publish_night(str(table), Night(run_date, tuple(scored), SCHEMA, facts), STORAGE)
    manifest = {
        **facts,
        "table_version": published.version,
        "num_rows": sum(record.num_rows for record in records),
        "num_scored_rows": sum(record.num_scored_rows for record in records),
        "num_quarantined_rows": sum(record.num_quarantined_rows for record in records),
    }
    uri = f"{table}/_manifests/run_date={run_date}/{run_id}"
    STORAGE.write_bytes(f"{uri}.json", json.dumps(manifest).encode())
    read = {source: "v1" for file in scored for source in read_sources(f"{table}/{file.path}")} | dict(etags)
    told = {source: etag for source, etag in read.items() if etag is not None}
    columns = {"uri": pa.array(told, pa.string()), "etag": pa.array(told.values(), pa.string())}
    write_parquet(pa.table(columns), f"{uri}.files.parquet", {}, STORAGE)


def read_sources(uri: str) -> set[str]:
    filesystem, location = STORAGE.open_arrow(uri)
    return set(pq.read_table(location, columns=["source_file"], filesystem=filesystem)["source_file"].to_pylist())
