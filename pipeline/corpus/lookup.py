"""Some rows of a Parquet file by their numbers: what stands behind a published row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.listing import hive_keys
from pipeline.corpus.nested import column_at, find_path
from pipeline.errors import BertmillError, CorpusError, first_line
from pipeline.storage import Storage, retrying

_REMEDY = "name a column that it has"


def read_rows_at(
    uri: str, positions: Sequence[int], columns: Sequence[str], storage: Storage, remedy: str = _REMEDY
) -> pa.Table:
    """Rows of one file; one row group is in memory at a time.

    Args:
        uri: The file.
        positions: Numbers of rows, counted from 0, ascending.
        columns: Names, paths of fields inside struct columns (`doc.body`), or hive keys of the file's folders.
        storage: The store.
        remedy: What to do where the file has no such column.

    Returns:
        A table of the named columns, a row for each position.

    Raises:
        CorpusError: the file cannot be read, has fewer rows, or lacks a column.
    """
    filesystem, path = storage.open_arrow(uri)
    try:
        with retrying(lambda: pq.ParquetFile(path, filesystem=filesystem), f"read {uri}") as parquet:
            places = {name: _find_column(parquet.schema_arrow, name, uri, remedy) for name in columns}
            names = list(dict.fromkeys(".".join(place) for place in places.values() if isinstance(place, tuple)))
            parts = []
            for index, within in _by_row_group(parquet.metadata, positions, uri).items():
                group = retrying(partial(parquet.read_row_group, index, columns=names), f"read {uri}")
                values = {name: _values_at(group, place) for name, place in places.items()}
                parts.append(pa.table(values).take(within))
    except BertmillError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(
            f"{uri}: cannot be read again: {first_line(error)}",
            "rows are read again from the corpus as it was when they were scored: restore the file",
        ) from None
    return pa.concat_tables(parts)


def _find_column(schema: pa.Schema, name: str, uri: str, remedy: str) -> tuple[str, ...] | pa.Scalar:
    """Where a column stands in the file, or the text that a folder gives all of its rows: as a corpus is read."""
    path, keys = find_path(schema, name), dict(hive_keys(uri))
    if path == (name,) or (path is not None and name not in keys):
        return path
    if name not in keys:
        raise CorpusError(f"{uri}: no column {name!r}; it has {', '.join([*schema.names, *keys])}", remedy)
    return pa.scalar(keys[name], pa.string())


def _values_at(group: pa.Table, place: tuple[str, ...] | pa.Scalar) -> pa.ChunkedArray:
    if isinstance(place, tuple):
        return column_at(group, place)
    return pa.chunked_array([pa.repeat(place, group.num_rows)])


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
