"""Corpus files of a few rows, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.column_types import kept_schema
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import Columns, FileFooter, ReadOptions, read_footers, read_shard
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.storage import Storage

STORAGE = Storage()
TEXT = Columns(("text",))
TEXT_AND_ID = Columns(("text",), ("id",))


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def footers_of(directory: Path, columns: Columns) -> list[FileFooter]:
    return read_footers(list_corpus([str(directory)], STORAGE), columns, STORAGE)


def read_all(directory: Path, columns: Columns, quarantine_blank: bool = True) -> list[dict[str, Any]]:
    footers = footers_of(directory, columns)
    options = ReadOptions(kept_schema(footers, columns.kept), quarantine_blank)
    shards = cut_shards([footer.layout for footer in footers], ShardSize(1_000, 2**20))
    return [row for shard in shards for row in read_shard(shard, columns, options, STORAGE).to_pylist()]
