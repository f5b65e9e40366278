"""Reads a table's Parquet files again, one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import AccountingError
from pipeline.storage import Storage, classify_error, map_threads, retrying

_THREADS = 16


def read_file_schema(uri: str, storage: Storage) -> pa.Schema:
    """A file's columns, with its footer as their metadata.

    Raises:
        AccountingError: the file is gone or is not Parquet.
    """
    filesystem, path = storage.open_arrow(uri)
    try:
        return retrying(lambda: pq.read_schema(path, filesystem=filesystem), f"read {uri}")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(uri, error) from None


def shared_columns(schema: pa.Schema, uris: Sequence[str], storage: Storage) -> pa.Schema:
    """The columns of a table that each of some of its files has: others were added later, or for another night.

    Raises:
        AccountingError: a file is gone or is not Parquet.
    """
    there = [set(found.names) for found in map_threads(lambda uri: read_file_schema(uri, storage), uris, _THREADS)]
    return pa.schema([field for field in schema if all(field.name in names for names in there)])


def read_row_groups(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """A file's rows, row group by row group, in order.

    Args:
        uri: The file.
        storage: The store.
        columns: Which columns, in this order; None for all.

    Raises:
        AccountingError: the file is gone or is not Parquet.
    """
    filesystem, path = storage.open_arrow(uri)
    try:
        with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True) as parquet:
            for index in range(parquet.num_row_groups):
                group = retrying(partial(parquet.read_row_group, index, columns=columns), f"read {uri}")
                yield group if columns is None else group.select(columns)
    except (pa.ArrowException, OSError) as error:
        known = classify_error(error, f"read {uri}")
        raise known or _unreadable(uri, error) from None


def _unreadable(uri: str, error: Exception) -> AccountingError:
    return AccountingError(
        f"{uri}: the table names this file, but it cannot be read: {str(error).splitlines()[0]}",
        "`bertmill table verify` checks the whole night; score it again to replace the file",
    )
