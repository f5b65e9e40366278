"""Where a row of the corpus stands in a night: (source_file, source_row), as ranges by row group.

A row group holds few source files, and of each a stretch of rows, so ranges take O(row groups) of memory where keys
would take O(rows). Only ranges that overlap have to be looked at row by row. (With source files of a row or two each,
there are as many ranges as rows.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage, retrying
from pipeline.uris import join_uri

KEYS = [SOURCE_FILE, SOURCE_ROW]


@dataclass(frozen=True)
class RowGroupPlace:
    """One row group of one file; the path is relative to `root`."""

    root: str
    path: str
    index: int


@dataclass(frozen=True)
class KeyRange:
    """The rows of one source file in one row group."""

    place: RowGroupPlace
    source_file: str
    first_row: int
    last_row: int
    num_rows: int


def key_ranges(rows: pa.Table, place: RowGroupPlace) -> list[KeyRange]:
    """Ranges of the rows of one row group, one for each source file in it."""
    aggregated = rows.group_by(SOURCE_FILE).aggregate([(SOURCE_ROW, "min"), (SOURCE_ROW, "max"), (SOURCE_ROW, "count")])
    return [
        KeyRange(
            place, row[SOURCE_FILE], row[f"{SOURCE_ROW}_min"], row[f"{SOURCE_ROW}_max"], row[f"{SOURCE_ROW}_count"]
        )
        for row in aggregated.to_pylist()
    ]


def overlapping(ranges: Iterable[KeyRange]) -> Iterator[list[KeyRange]]:
    """Ranges of one source file that overlap, in groups of two or more."""
    by_source: dict[str, list[KeyRange]] = defaultdict(list)
    for item in ranges:
        by_source[item.source_file].append(item)
    for items in by_source.values():
        group: list[KeyRange] = []
        end = -1
        for item in sorted(items, key=lambda item: (item.first_row, item.last_row)):
            if group and item.first_row > end:
                if len(group) > 1:
                    yield group
                group = []
            group.append(item)
            end = max(end, item.last_row) if len(group) > 1 else item.last_row
        if len(group) > 1:
            yield group


def read_row_groups(
    root: str, path: str, columns: list[str] | None, storage: Storage
) -> Iterator[tuple[RowGroupPlace, pa.Table]]:
    """A file's row groups, one after the other; all columns if none are named."""
    filesystem, location = storage.open_arrow(join_uri(root, path))
    with retrying(partial(pq.ParquetFile, location, filesystem=filesystem), f"read {path}") as parquet:
        for index in range(parquet.num_row_groups):
            read = partial(parquet.read_row_group, index, columns=columns)
            yield RowGroupPlace(root, path, index), retrying(read, f"read {path}")


def read_row_group(place: RowGroupPlace, columns: list[str], storage: Storage) -> pa.Table:
    """One row group."""
    filesystem, location = storage.open_arrow(join_uri(place.root, place.path))

    def read() -> pa.Table:
        with pq.ParquetFile(location, filesystem=filesystem) as parquet:
            return parquet.read_row_group(place.index, columns=columns)

    return retrying(read, f"read {place.path}")
