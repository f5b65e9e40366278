"""The columns of one piece of a corpus file: its row groups as they are, or, of much larger ones, page by page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.nested import column_at, find_path
from pipeline.corpus.shards import Piece
from pipeline.errors import CorpusError
from pipeline.storage import Storage

# A piece that is at most half of row groups larger than either is read by pages.
_WHOLE_ROWS, _WHOLE_BYTES, _RANGE_PARTS = 65_536, 64 * 2**20, 2
_BATCH_ROWS, _BATCH_BYTES, _BUFFER_BYTES = 4_096, 16 * 2**20, 4 * 2**20
_SMALL_BATCH_ROWS = 64  # of texts whose sizes a dictionary hides: 2 GiB, all that Arrow can nest, are 64 of 32 MiB
_TOO_LARGE = "Nested data conversions not implemented"  # Arrow's words for nested text of 2 GiB in one array
_UNIT = {"coerce_int96_timestamp_unit": "us"}  # old writers' timestamps; in nanoseconds the year 9999 is another


@dataclass(frozen=True)
class _Span:
    """Rows [start, stop) of some row groups, counted from the first of them, and the columns wanted."""

    groups: list[int]
    names: list[str]
    start: int
    stop: int
    num_rows: int
    num_bytes: int

    @property
    def is_part(self) -> bool:
        """Whether most of large row groups is not wanted."""
        is_large = self.num_rows > _WHOLE_ROWS or self.num_bytes > _WHOLE_BYTES
        return is_large and (self.stop - self.start) * _RANGE_PARTS <= self.num_rows

    @property
    def batch_rows(self) -> int:
        """Rows that are decoded at a time."""
        of_bytes = _BATCH_BYTES * self.num_rows // max(1, self.num_bytes)
        return max(1, min(_BATCH_ROWS, of_bytes, self.stop))


def read_columns(piece: Piece, names: Iterable[str], storage: Storage) -> dict[str, pa.ChunkedArray]:
    """Each named column (or hive key) of a piece's rows, by the name asked for.

    Raises:
        CorpusError: the file is not the one that was planned, or one row's text is too large.
        ArrowException, OSError: it cannot be read.
    """
    file = piece.file
    filesystem, path = storage.open_arrow(file.uri)
    with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True, **_UNIT) as parquet:
        paths = {name: _path_in_file(parquet.schema_arrow, name, file) for name in names}
        span = _span_of(parquet.metadata, piece, [".".join(path) for path in paths.values() if path])
        table = _read_span(parquet, (path, filesystem), span)
    return {name: column_at(table, path) if path else _hive_column(piece, name) for name, path in paths.items()}


def changed(file: CorpusFile) -> CorpusError:
    """What to say of a file that is not the one that was planned."""
    return CorpusError(
        f"{file.uri}: changed or vanished while the job ran (planned etag {file.etag})",
        "run the same command again: it plans anew and keeps every finished shard",
    )


def column_indices(metadata: pq.FileMetaData, names: Iterable[str]) -> list[int]:
    """Which leaf columns of a file belong to the named ones, themselves or as fields inside of them."""
    starts = tuple(f"{name}." for name in names)
    schema = metadata.schema
    return [index for index in range(metadata.num_columns) if f"{schema.column(index).path}.".startswith(starts)]


def group_bytes(group: pq.RowGroupMetaData, indices: Iterable[int]) -> int:
    """Uncompressed bytes of some leaf columns of a row group."""
    return sum(group.column(index).total_uncompressed_size for index in indices)


def _span_of(metadata: pq.FileMetaData, piece: Piece, names: list[str]) -> _Span:
    """Row groups that hold the piece's rows, and where in them these stand."""
    groups: list[int] = []
    first_row = position = num_rows = num_bytes = 0
    indices = column_indices(metadata, names)
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        end = position + group.num_rows
        if position < piece.stop_row and end > piece.start_row:
            if not groups:
                first_row = position
            groups.append(index)
            num_rows += group.num_rows
            num_bytes += group_bytes(group, indices)
        position = end
    return _Span(groups, names, piece.start_row - first_row, piece.stop_row - first_row, num_rows, num_bytes)


def _read_span(parquet: pq.ParquetFile, place: tuple[str, Any], span: _Span) -> pa.Table:
    """The span's rows; fewer are decoded at a time while nested text of them is more than Arrow can hold at once."""
    whole = not (span.names and span.is_part)
    for batch_rows in (None if whole else span.batch_rows, _SMALL_BATCH_ROWS, 1):
        try:
            if batch_rows is not None:
                return _read_pages(parquet.metadata, place, span, batch_rows)
            table = parquet.read_row_groups(span.groups, columns=span.names)
            _check_length(table, span.num_rows)
            return table.slice(span.start, span.stop - span.start)
        except pa.ArrowNotImplementedError as error:
            if _TOO_LARGE not in str(error):
                raise
    raise CorpusError(
        f"{place[0]}: nested text of 2 GiB or more in one row, which Arrow cannot read",
        "leave such rows out of the file",
    )


def _read_pages(metadata: pq.FileMetaData, place: tuple[str, Any], span: _Span, batch_rows: int) -> pa.Table:
    """Page by page: what comes before the span is not kept, what follows not fetched."""
    position, batches = 0, list[pa.RecordBatch]()
    path, filesystem = place
    # pre_buffer, on unless it is said, fetches whole column chunks
    options = {"metadata": metadata, "buffer_size": _BUFFER_BYTES, "pre_buffer": False, **_UNIT}
    with pq.ParquetFile(path, filesystem=filesystem, **options) as parquet:
        for batch in parquet.iter_batches(batch_rows, row_groups=span.groups, columns=span.names):
            end = position + batch.num_rows
            if end > span.start:
                wanted = min(end, span.stop) - max(span.start, position)
                batches.append(batch.slice(max(0, span.start - position), wanted))
            position = end
            if position >= span.stop:
                break
    table = pa.Table.from_batches(batches)
    _check_length(table, min(span.num_rows, span.stop) - span.start)
    return table


def _check_length(table: pa.Table, num_rows: int) -> None:
    if table.num_rows != num_rows:
        raise pa.ArrowInvalid(f"{table.num_rows} rows where the footer says {num_rows}")


def _path_in_file(schema: pa.Schema, name: str, file: CorpusFile) -> tuple[str, ...] | None:
    """Where a column stands in the file; None where it is a hive key, which a nested field does not hide."""
    path = find_path(schema, name)
    is_hive_key = name in dict(file.partition)
    if path is None and not is_hive_key:
        raise changed(file)
    return None if is_hive_key and path != (name,) else path


def _hive_column(piece: Piece, name: str) -> pa.ChunkedArray:
    text = pa.scalar(dict(piece.file.partition)[name], pa.string())
    return pa.chunked_array([pa.repeat(text, piece.num_rows)])
