"""Arrow tables -> one CSV file: a header, text in quotes, nothing for null, JSON for what CSV has no form for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.csv as csv

from pipeline.output.export.json_text import to_base64, to_json
from pipeline.output.writer import WrittenFile, write_complete
from pipeline.storage import Storage

_ROWS_AT_ONCE = 4_096  # an embedding of 1,024 numbers is about 12 KB of text


def write_csv(
    read_tables: Callable[[], Iterable[pa.Table]], schema: pa.Schema, uri: str, storage: Storage
) -> WrittenFile:
    """Write one file, complete or absent.

    Args:
        read_tables: Gives the tables, all of `schema`; called again when the store failed and the file is begun anew.
        schema: The columns.
        uri: Where.
        storage: The store.
    """
    num_rows = 0

    def write(path: str, filesystem: object) -> None:
        nonlocal num_rows
        num_rows = 0
        columns = to_text(schema.empty_table()).schema
        with filesystem.open_output_stream(path) as sink, csv.CSVWriter(sink, columns) as writer:  # type: ignore[attr-defined]
            for table in read_tables():
                for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
                    writer.write_table(to_text(pa.Table.from_batches([batch])))
                    num_rows += batch.num_rows

    size_bytes = write_complete(uri, write, storage)
    return WrittenFile(uri, size_bytes, num_rows)


def to_text(table: pa.Table) -> pa.Table:
    """A table of plain columns: JSON text for nested values, base64 for bytes, the others as they are."""
    columns = [_plain(column.combine_chunks()) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _plain(values: pa.Array) -> pa.Array:
    if pa.types.is_nested(values.type):
        return to_json(values)
    if pa.types.is_binary(values.type):
        return to_base64(values)
    return values
