"""Rows of two nights side by side, joined on (source_file, source_row).

Only rows of corpus files that had the same etag on both nights: in a file that was rewritten in between, another text
may stand in the same row, and another label of it is no change. In memory: the ranges of the second night's row groups
(see `keys`), one row group of each night, and the etags of both nights' corpus files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.keys import KEYS, KeyRange, RowGroupPlace, key_ranges, read_row_group, read_row_groups
from pipeline.schema import SOURCE_FILE
from pipeline.storage import Storage


@dataclass(frozen=True)
class NightRows:
    """Where the rows of a night stand.

    Attributes:
        paths: The table's files that hold them.
        etags: Corpus file -> etag of the version whose rows they are; without those of which nothing tells.
    """

    paths: Sequence[str]
    etags: Mapping[str, str]


@dataclass(frozen=True)
class NotCompared:
    """Rows whose file and row stand in both nights, and which were left out, and how many corpus files they are of.

    Rewritten files have another etag on each night; of unknown ones nothing tells it for one night or both.
    """

    num_rewritten_rows: int = 0
    num_rewritten_files: int = 0
    num_unknown_rows: int = 0
    num_unknown_files: int = 0

    @property
    def num_rows(self) -> int:
        """All of them."""
        return self.num_rewritten_rows + self.num_unknown_rows

    @property
    def sentences(self) -> list[str]:
        """The same in words; none where every row was compared."""
        rewritten = f"{self.num_rewritten_rows:,} rows of {self.num_rewritten_files:,} rewritten files are not compared"
        unknown = (
            f"{self.num_unknown_rows:,} rows of {self.num_unknown_files:,} files are not compared: "
            "no manifest tells their etags on both nights"
        )
        said = ((self.num_rewritten_rows, rewritten), (self.num_unknown_rows, unknown))
        return [sentence for num_rows, sentence in said if num_rows]


class RowMatcher:
    """Joins the rows of two nights of a table; what it left out is known once all pairs were taken."""

    def __init__(self, uri: str, first: NightRows, second: NightRows, storage: Storage) -> None:
        self._uri = uri
        self._first = first
        self._second = second
        self._storage = storage
        self._rewritten: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    @property
    def not_compared(self) -> NotCompared:
        """Rows that stand in both nights and were in no pair."""
        return NotCompared(self._rewritten.total(), len(self._rewritten), self._unknown.total(), len(self._unknown))

    def match_rows(self, names: Sequence[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Rows that can be compared, side by side: pairs of tables of the keys and the named columns."""
        columns = list(dict.fromkeys([*KEYS, *names]))
        ranges: dict[str, list[KeyRange]] = defaultdict(list)
        for path in self._second.paths:
            for place, keys in read_row_groups(self._uri, path, KEYS, self._storage):
                for item in key_ranges(keys, place):
                    ranges[item.source_file].append(item)
        for path in self._first.paths:
            for place, left in read_row_groups(self._uri, path, columns, self._storage):
                for other in _matching(key_ranges(left, place), ranges):
                    if other == place:  # a snapshot's file that stayed as it was, whatever became of its corpus file
                        yield left, left
                    else:
                        yield self._comparable(*_joined(left, read_row_group(other, columns, self._storage)))

    def _comparable(self, left: pa.Table, right: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Joined rows without those of files whose etags differ or are not known, which are counted."""
        others = []
        for item in pc.value_counts(left[SOURCE_FILE]).to_pylist():
            source, num_rows = item["values"], item["counts"]
            etags = {night.etags.get(source) for night in (self._first, self._second)}
            if None in etags:
                self._unknown[source] += num_rows
            elif len(etags) > 1:
                self._rewritten[source] += num_rows
            else:
                continue
            others.append(source)
        if not others:
            return left, right
        kept = pc.invert(pc.is_in(left[SOURCE_FILE], pa.array(others, left.schema.field(SOURCE_FILE).type)))
        return left.filter(kept), right.filter(kept)


def _matching(wanted: list[KeyRange], ranges: dict[str, list[KeyRange]]) -> list[RowGroupPlace]:
    """Row groups that may hold some of the wanted rows."""
    found = {
        other.place: None
        for item in wanted
        for other in ranges.get(item.source_file, [])
        if other.first_row <= item.last_row and other.last_row >= item.first_row
    }
    return list(found)


def _joined(left: pa.Table, right: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of both sides whose keys stand in both, side by side."""
    if all(left[name].equals(right[name]) for name in KEYS):
        return left, right
    sides = [
        side.select(KEYS).append_column(name, pa.array(np.arange(side.num_rows)))
        for side, name in ((left, "left"), (right, "right"))
    ]
    pairs = sides[0].join(sides[1], keys=KEYS, join_type="inner")
    return left.take(pairs["left"]), right.take(pairs["right"])
