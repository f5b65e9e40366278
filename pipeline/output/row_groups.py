"""Reads a table's Parquet files again, one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import AccountingError, first_line
from pipeline.output.columns import same_type
from pipeline.schema import file_schema
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


def united_columns(schema: pa.Schema, uris: Sequence[str], storage: Storage) -> pa.Schema:
    """The columns of a table that any of some of its files has, in the table's order and the first such file's types.

    Of no files they are the table's own.

    Raises:
        AccountingError: a file is gone or is not Parquet.
    """
    if not uris:
        return file_schema(schema)
    there = list(map_threads(lambda uri: read_file_schema(uri, storage), uris, _THREADS))
    first: dict[str, pa.Field] = {}
    for found in there:
        for field in found:
            first.setdefault(field.name, field)
    always = {name for name in first if all(name in found.names and not found.field(name).nullable for found in there)}
    return pa.schema([first[name].with_nullable(name not in always) for name in schema.names if name in first])


def read_row_groups(uri: str, storage: Storage, columns: pa.Schema | None = None) -> Iterator[pa.Table]:
    """A file's rows, row group by row group, in order.

    Args:
        uri: The file.
        storage: The store.
        columns: Which columns, in this order and these types, null where the file lacks one; None for all it has.

    Raises:
        AccountingError: the file is gone, is not Parquet, or holds another kind of values in a column.
    """
    filesystem, path = storage.open_arrow(uri)
    try:
        with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True) as parquet:
            names = None if columns is None else _there(parquet.schema_arrow, columns, uri)
            for index in range(parquet.num_row_groups):
                group = retrying(partial(parquet.read_row_group, index, columns=names), f"read {uri}")
                yield group if columns is None else fit_columns(group, columns)
    except (pa.ArrowException, OSError) as error:
        known = classify_error(error, f"read {uri}")
        raise known or _unreadable(uri, error) from None


def fit_columns(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """A table with these columns alone, in their order and types, null where it lacks one."""
    values = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in columns
    ]
    return pa.Table.from_arrays(values, schema=columns)


def _there(found: pa.Schema, wanted: pa.Schema, uri: str) -> list[str]:
    """Which of the wanted columns a file has."""
    names = [name for name in wanted.names if name in found.names]
    for name in names:
        if not same_type(found.field(name).type, wanted.field(name).type):
            raise AccountingError(
                f"{uri}: {name} is {found.field(name).type} there, and {wanted.field(name).type} in other files",
                "`bertmill table verify` says which file is wrong; score the night again to replace it",
            )
    return names


def _unreadable(uri: str, error: Exception) -> AccountingError:
    return AccountingError(
        f"{uri}: the table names this file, but it cannot be read: {first_line(error)}",
        "`bertmill table verify` checks the whole night; score it again to replace the file",
    )
