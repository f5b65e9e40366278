"""Arrow table -> one Parquet file at a URI, complete or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import AccountingError, first_line
from pipeline.local_files import replace_file
from pipeline.storage import Storage, retrying
from pipeline.uris import split_uri

ROW_GROUP_ROWS = 32_768


@dataclass(frozen=True)
class WrittenFile:
    """A finished Parquet file."""

    uri: str
    size_bytes: int
    num_rows: int


def write_parquet(table: pa.Table, uri: str, footer: Mapping[str, str], storage: Storage) -> WrittenFile:
    """Write one file: zstd, plain floats, and lists of them without dictionary or statistics.

    On object storage an upload shows only when it is complete; locally a synced temporary file is renamed.

    Args:
        table: The rows.
        uri: Where.
        footer: Key-value metadata for the Parquet footer.
        storage: The store.
    """
    table = table.replace_schema_metadata(dict(footer))
    return WrittenFile(
        uri, write_complete(uri, lambda path, store: _write(table, path, store), storage), table.num_rows
    )


def write_row_groups(
    read_tables: Callable[[], Iterable[pa.Table]], schema: pa.Schema, uri: str, storage: Storage
) -> WrittenFile:
    """Write one file like `write_parquet`, from tables that come one after the other; holds one row group at a time.

    Args:
        read_tables: Gives the tables, all of `schema`; called again when the store failed and the file is begun anew.
        schema: With the footer as its metadata.
        uri: Where.
        storage: The store.
    """
    num_rows = 0

    def write(path: str, filesystem: object) -> None:
        nonlocal num_rows
        num_rows = 0
        with pq.ParquetWriter(path, schema, filesystem=filesystem, **_options(schema)) as writer:
            for group in _regrouped(read_tables()):
                writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP_ROWS)
                num_rows += group.num_rows

    size_bytes = write_complete(uri, write, storage)
    return WrittenFile(uri, size_bytes, num_rows)


def read_footer(uri: str, storage: Storage) -> dict[str, str]:
    """What a written file's footer says.

    Raises:
        AccountingError: the file is gone or is not Parquet.
    """
    return {key.decode(): value.decode() for key, value in (_read_metadata(uri, storage).metadata or {}).items()}


def read_columns(uri: str, storage: Storage) -> pa.Schema:
    """A written file's columns.

    Raises:
        AccountingError: the file is gone or is not Parquet.
    """
    return _read_metadata(uri, storage).schema.to_arrow_schema()


def _read_metadata(uri: str, storage: Storage) -> pq.FileMetaData:
    filesystem, path = storage.open_arrow(uri)
    try:
        return retrying(lambda: pq.read_metadata(path, filesystem=filesystem), f"read {uri}")
    except (pa.ArrowException, OSError) as error:
        raise AccountingError(
            f"{uri}: the table names this file, but it cannot be read: {first_line(error)}",
            "`bertmill table verify` checks the whole night; score it again to replace the file",
        ) from None


def write_complete(uri: str, write: Callable[[str, object], None], storage: Storage) -> int:
    """Write a file of any kind so that a reader sees it complete or not at all.

    Args:
        uri: Where.
        write: Writes it, given a path and the pyarrow filesystem it is on; called again when the store failed.
        storage: The store.

    Returns:
        The file's size in bytes.
    """
    filesystem, path = storage.open_arrow(uri)

    def put() -> None:
        if split_uri(uri)[0] == "file":
            replace_file(path, lambda temporary: write(temporary, filesystem))
        else:
            write(path, filesystem)

    retrying(put, f"write {uri}")
    return retrying(lambda: int(filesystem.get_file_info(path).size), f"read {uri}")


def _write(table: pa.Table, path: str, filesystem: object) -> None:
    pq.write_table(table, path, filesystem=filesystem, row_group_size=ROW_GROUP_ROWS, **_options(table.schema))


def _options(schema: pa.Schema) -> dict[str, Any]:
    # BYTE_STREAM_SPLIT would save a tenth, and Spark's reader (4.1) refuses it.
    others = [field.name for field in schema if not pa.types.is_nested(field.type)]
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in others if not pa.types.is_floating(schema.field(name).type)],
        "write_statistics": others,
    }


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP_ROWS rows, the last one shorter."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(part.num_rows for part in held) >= ROW_GROUP_ROWS:
            joined = pa.concat_tables(held)
            yield joined.slice(0, ROW_GROUP_ROWS)
            held = [joined.slice(ROW_GROUP_ROWS)]
    rest = pa.concat_tables(held) if held else None
    if rest is not None and rest.num_rows:
        yield rest
