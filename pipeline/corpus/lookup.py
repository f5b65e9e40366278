"""Some rows of a Parquet file by their numbers: what stands behind a published row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.nested import column_at, find_path
from pipeline.errors import BertmillError, CorpusError
from pipeline.storage import Storage, retrying


def read_rows_at(uri: str, positions: Sequence[int], columns: Sequence[str], storage: Storage) -> pa.Table:
    """Rows of one file; one row group is in memory at a time.

    Args:
        uri: The file.
        positions: Numbers of rows, counted from 0, ascending.
        columns: Names, or paths of fields inside struct columns (`doc.body`).
        storage: The store.

    Returns:
        A table of the named columns, a row for each position.

    Raises:
        CorpusError: the file cannot be read, has fewer rows, or lacks a column.
    """
    filesystem, path = storage.open_arrow(uri)
    try:
        with retrying(lambda: pq.ParquetFile(path, filesystem=filesystem), f"read {uri}") as parquet:
            paths = [_find_column(parquet.schema_arrow, name, uri) for name in columns]
            names = list(dict.fromkeys(".".join(path) for path in paths))
            parts = []
            for index, within in _by_row_group(parquet.metadata, positions, uri).items():
                group = retrying(partial(parquet.read_row_group, index, columns=names), f"read {uri}")
                values = dict(zip(columns, (column_at(group, path) for path in paths), strict=True))
                parts.append(pa.table(values).take(within))
    except BertmillError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{uri}: cannot be read again: {str(error).splitlines()[0]}",
            "rows are read again from the corpus as it was when they were scored: restore the file",
        ) from None
    return pa.concat_tables(parts)


def _find_column(schema: pa.Schema, name: str, uri: str) -> tuple[str, ...]:
    path = find_path(schema, name)
    if path is None:
        raise CorpusError(
            f"{uri}: no column {name!r}; it has {', '.join(schema.names)}",
            "name the column that the rows were scored from (of `bertmill table verify`: --input INPUT=COLUMN)",
        )
    return path


def _by_row_group(metadata: pq.FileMetaData, positions: Sequence[int], uri: str) -> dict[int, list[int]]:
    """Row group -> positions in it."""
    if positions and positions[-1] >= metadata.num_rows:
        raise CorpusError(
            f"{uri}: has {metadata.num_rows} rows, and the night names row {positions[-1]}",
            "the file has changed since it was scored: restore it, or score the night again",
        )
    ends = np.cumsum([metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)])
    found: dict[int, list[int]] = defaultdict(list)
    for position in positions:
        index = int(np.searchsorted(ends, position, side="right"))
        found[index].append(position - int(ends[index - 1] if index else 0))
    return found
