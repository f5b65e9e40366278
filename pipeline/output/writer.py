"""Arrow table -> one Parquet file at a URI, complete or absent."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

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
    """Write one file: zstd, float lists byte-stream-split without dictionary or statistics.

    On object storage an upload shows only when it is complete; locally a synced temporary file is renamed.

    Args:
        table: The rows.
        uri: Where.
        footer: Key-value metadata for the Parquet footer.
        storage: The store.
    """
    table = table.replace_schema_metadata(dict(footer))
    filesystem, path = storage.open_arrow(uri)
    write = _write_local if split_uri(uri)[0] == "file" else _write
    retrying(lambda: write(table, path, filesystem), f"write {uri}")
    size_bytes = retrying(lambda: int(filesystem.get_file_info(path).size), f"read {uri}")
    return WrittenFile(uri, size_bytes, table.num_rows)


def _write_local(table: pa.Table, path: str, filesystem: object) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.tmp")
    try:
        _write(table, temporary, filesystem)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write(table: pa.Table, path: str, filesystem: object) -> None:
    float_lists = [f"{field.name}.list.element" for field in table.schema if _is_float_list(field.type)]
    others = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    pq.write_table(
        table,
        path,
        filesystem=filesystem,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=[name for name in others if not pa.types.is_floating(table.schema.field(name).type)],
        write_statistics=others,
        use_byte_stream_split=float_lists,
    )


def _is_float_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_float32(kind.value_type))


def _sync(path: str) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
