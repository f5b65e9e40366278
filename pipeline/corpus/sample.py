"""Where to look in a corpus to know the whole: row groups drawn by size, and some rows of each.

Half of a row group's chance is its share of the rows, half its share of the bytes. So what grows with either (tokens of
cut texts with the rows, of whole texts with the bytes) is known from few of them, however unlike the files are. What
would be drawn more than once is taken for certain. The same corpus gives the same sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.reader import Columns, ReadOptions, read_shard
from pipeline.corpus.shards import FileLayout, Piece, Shard, name_shard
from pipeline.storage import Storage, map_threads

_READ_ROWS, _READ_BYTES = 16_384, 128 * 2**20  # of one row group; of all of them together
_MIN_ROWS = 4
_THREADS = 8
_CERTAIN = 1 - 1e-9  # what is rounded below 1 is drawn for certain too


@dataclass(frozen=True, slots=True)
class Spot:
    """Rows of one row group, and how many such groups of the corpus it stands for."""

    piece: Piece
    num_bytes: int
    weight: float = 1.0

    @property
    def num_meant_rows(self) -> float:
        """Rows of the corpus that it stands for."""
        return self.weight * self.piece.num_rows


@dataclass(frozen=True)
class SampleSize:
    """How much is looked at: row groups, rows of all of them together, and their bytes of text."""

    spots: int = 32
    rows: int = 2_048
    text_bytes: int = 2**20


def choose_spots(pieces: Iterable[Piece], layouts: Mapping[str, FileLayout], num_spots: int) -> list[Spot]:
    """Draw row groups, in the order of the pieces.

    Args:
        pieces: What the sample is to be of.
        layouts: Their files' row groups, by URI.
        num_spots: How many to draw; all, if there are no more.
    """
    everything = list(_split_at_groups(pieces, layouts))
    rows = np.array([spot.piece.num_rows for spot in everything], np.float64)
    sizes = np.array([spot.num_bytes for spot in everything], np.float64)
    weights = _draw(rows / max(rows.sum(), 1) + sizes / max(sizes.sum(), 1), num_spots)
    return [replace(everything[index], weight=float(weights[index])) for index in np.flatnonzero(weights)]


def read_sample(
    spots: Sequence[Spot], columns: Columns, options: ReadOptions, storage: Storage, size: SampleSize
) -> list[pa.Table]:
    """Some rows of each spot, evenly spaced; of a giant row group, of its first rows.

    Returns:
        For each spot a table as `read_shard` gives it.

    Raises:
        CorpusError: a file is corrupt, vanished, or is not the one that was planned.
    """
    share = max(1, len(spots))

    def read(spot: Spot) -> pa.Table:
        bytes_a_row = max(1.0, spot.num_bytes / spot.piece.num_rows)
        head = head_of(spot, max(_MIN_ROWS, min(_READ_ROWS, int(_READ_BYTES / share / bytes_a_row))))
        rows = read_shard(Shard(name_shard([head]), (head,), 0), columns, options, storage)
        return _thin(rows, columns, size.rows // share, size.text_bytes // share)

    return list(map_threads(read, spots, _THREADS))


def head_of(spot: Spot, num_rows: int) -> Piece:
    """Its first rows; all, if it has no more."""
    return replace(spot.piece, stop_row=min(spot.piece.stop_row, spot.piece.start_row + num_rows))


def _thin(rows: pa.Table, columns: Columns, max_rows: int, max_bytes: int) -> pa.Table:
    """As many evenly spaced rows as both limits allow, by the mean length of those there are."""
    lengths = (pc.sum(pc.binary_length(rows[name])).as_py() or 0 for name in columns.input_names)
    bytes_a_row = max(1.0, sum(lengths) / max(1, rows.num_rows))
    num_rows = min(rows.num_rows, max(_MIN_ROWS, min(max_rows, int(max_bytes / bytes_a_row))))
    return rows.take(pa.array(((np.arange(num_rows) + 0.5) * rows.num_rows / max(1, num_rows)).astype(np.int64)))


def _draw(sizes: npt.NDArray[np.float64], num_drawn: int) -> npt.NDArray[np.float64]:
    """How many each drawn one stands for, 0 for those that are not: systematic, by size, from the middle of a step."""
    certain = np.zeros(len(sizes), np.bool_)
    while True:
        rest = np.where(certain, 0.0, sizes)
        chances = (num_drawn - certain.sum()) * rest / max(rest.sum(), 1e-300)
        if not (chances > _CERTAIN).any():
            break
        certain |= chances > _CERTAIN
    ends = np.cumsum(chances)
    drawn = np.searchsorted(ends, np.arange(0.5, ends[-1] if len(ends) else 0.0))
    weights = certain.astype(np.float64)
    weights[drawn] = 1 / chances[drawn]
    return weights


def _split_at_groups(pieces: Iterable[Piece], layouts: Mapping[str, FileLayout]) -> Iterable[Spot]:
    """Pieces cut where row groups end, each part with its share of the group's bytes."""
    ends: dict[str, list[int]] = {}
    for piece in pieces:
        uri, groups = piece.file.uri, layouts[piece.file.uri].row_groups
        if uri not in ends:
            ends[uri] = list(accumulate(group.num_rows for group in groups))
        index, start = bisect_right(ends[uri], piece.start_row), piece.start_row
        while start < piece.stop_row:
            stop = min(piece.stop_row, ends[uri][index])
            if stop > start:
                part = (stop - start) / groups[index].num_rows
                yield Spot(Piece(piece.file, start, stop), int(groups[index].num_bytes * part))
            index, start = index + 1, stop
