"""Done-records and nights for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.output.ledger import DoneRecord
from pipeline.output.table import DataFile, Night
from pipeline.output.writer import write_parquet
from pipeline.schema import EMBEDDING_FIELD, RUN_DATE_FIELD, file_schema
from pipeline.storage import Storage

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("label", pa.string()), EMBEDDING_FIELD, RUN_DATE_FIELD])


def done_record(shard: str = "shard-a", **changes: Any) -> DoneRecord:
    fields: dict[str, Any] = {
        "shard": shard,
        "path": f"run_date=2026-11-23/{shard}.parquet",
        "size_bytes": 100,
        "num_scored_rows": 9,
        "quarantine_path": f"run_date=2026-11-23/{shard}-bad.parquet",
        "quarantine_size_bytes": 10,
        "num_quarantined_rows": 1,
        "num_tokens": 70,
        "num_padded_tokens": 80,
        "num_truncated_rows": 2,
        "run_id": "run-1",
        "elapsed_s": 0.5,
    }
    return DoneRecord(**{**fields, **changes})


def write_rows(table: Path, run_date: str, name: str, ids: list[int]) -> DataFile:
    """A data file of a night; its label says which file it is."""
    rows = [{"id": number, "label": name, "embedding": [0.5, float(number)]} for number in ids]
    path = f"run_date={run_date}/{name}.parquet"
    written = write_parquet(pa.Table.from_pylist(rows, file_schema(SCHEMA)), f"{table}/{path}", {}, Storage())
    return DataFile(path, written.size_bytes, len(ids))


def night(run_date: str, *files: DataFile, schema: pa.Schema = SCHEMA, **facts: str) -> Night:
    return Night(run_date, files, schema, {"run_date": run_date, "model_version": "m1", **facts})
