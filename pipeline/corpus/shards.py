"""Files -> shards: the unit of work, retry and exactly-once. Pure functions, no I/O.

A shard is named by what it holds: hash((uri, etag, first row, end row) of each piece). Rank, index and run
never enter, so the same data gives the same names in any listing order and on any number of workers, and a
name that has a done-record never needs to be read again.

Big files are cut at row-group boundaries (a giant row group by row range). Small files are packed together
with content-defined boundaries: a pack ends after a file whose own URI hashes low, so adding or removing one
file renames only the pack it falls in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.corpus.listing import CorpusFile

_MAX_PACK = 4  # a pack is closed at this many times the target size, whatever the hashes say
_MAX_PACKED_FILES = 4096


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Size of one Parquet row group: rows, and uncompressed bytes of the columns that are read."""

    num_rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """A corpus file and its row groups, as its footer tells."""

    file: CorpusFile
    row_groups: tuple[RowGroup, ...]

    @property
    def num_rows(self) -> int:
        """Rows in the file."""
        return sum(group.num_rows for group in self.row_groups)

    @property
    def num_bytes(self) -> int:
        """Uncompressed bytes of the columns that are read."""
        return sum(group.num_bytes for group in self.row_groups)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start_row, stop_row) of one file."""

    file: CorpusFile
    start_row: int
    stop_row: int

    @property
    def num_rows(self) -> int:
        """Rows in the piece."""
        return self.stop_row - self.start_row


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work: pieces in URI and row order, and the name their content gives them."""

    name: str
    pieces: tuple[Piece, ...]
    num_bytes: int

    @property
    def num_rows(self) -> int:
        """Rows in the shard."""
        return sum(piece.num_rows for piece in self.pieces)


@dataclass(frozen=True)
class ShardSize:
    """What a shard aims for; whichever limit is met first."""

    rows: int
    bytes: int

    def share(self, num_rows: int, num_bytes: int) -> float:
        """How much of one shard this is; 1.0 fills it."""
        return max(num_rows / self.rows, num_bytes / self.bytes)


def cut_shards(layouts: Iterable[FileLayout], size: ShardSize, packs_files: bool = True) -> list[Shard]:
    """Cut files into shards that cover every row exactly once.

    Args:
        layouts: The corpus, in any order.
        size: What one shard aims for.
        packs_files: Put several small files into one shard.

    Returns:
        Shards ordered by their first piece. Files without rows give none.
    """
    shards: list[Shard] = []
    pack = _Pack(size)
    for layout in sorted(layouts, key=lambda layout: layout.file.uri):
        num_rows, num_bytes = layout.num_rows, layout.num_bytes  # summed once: there may be millions of files
        if num_rows == 0:
            continue
        if size.share(num_rows, num_bytes) >= 1:
            shards.extend(pack.close())
            shards.extend(_cut_file(layout, size))
            continue
        pack.add(layout.file, num_rows, num_bytes)
        if not packs_files or pack.ends_after(layout.file.uri, size.share(num_rows, num_bytes)):
            shards.extend(pack.close())
    shards.extend(pack.close())
    return shards


def name_shard(pieces: Iterable[Piece]) -> str:
    """The content name of some pieces: 32 hex digits."""
    digest = hashlib.sha256()
    for piece in pieces:
        for part in (piece.file.uri, piece.file.etag, str(piece.start_row), str(piece.stop_row)):
            encoded = part.encode("utf-8", "surrogateescape")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:32]


class _Pack:
    """Whole small files on their way into one shard."""

    def __init__(self, size: ShardSize) -> None:
        self._size = size
        self._pieces: list[Piece] = []
        self._num_rows = 0
        self._num_bytes = 0

    def add(self, file: CorpusFile, num_rows: int, num_bytes: int) -> None:
        self._pieces.append(Piece(file, 0, num_rows))
        self._num_rows += num_rows
        self._num_bytes += num_bytes

    def ends_after(self, uri: str, share: float) -> bool:
        """Whether the pack ends after this file: with a chance equal to its share of a shard, by its URI's hash."""
        chance = max(share, _MAX_PACK / _MAX_PACKED_FILES)
        digest = hashlib.sha256(uri.encode("utf-8", "surrogateescape")).digest()
        if int.from_bytes(digest[:8], "big") < chance * 2.0**64:
            return True
        filled = self._size.share(self._num_rows, self._num_bytes)
        return filled >= _MAX_PACK or len(self._pieces) >= _MAX_PACKED_FILES

    def close(self) -> Iterator[Shard]:
        """The shard gathered so far, if any; the pack is empty afterwards."""
        pieces, num_bytes = tuple(self._pieces), self._num_bytes
        self._pieces, self._num_rows, self._num_bytes = [], 0, 0
        if pieces:
            yield Shard(name_shard(pieces), pieces, num_bytes)


def _cut_file(layout: FileLayout, size: ShardSize) -> Iterator[Shard]:
    """Cut one big file at row-group boundaries, and inside a row group that is itself too big."""
    start = stop = 0
    held_bytes = 0
    for num_rows, num_bytes in _split_groups(layout, size):
        if stop > start and size.share(stop + num_rows - start, held_bytes + num_bytes) > 1:
            yield _one_piece(layout.file, start, stop, held_bytes)
            start, held_bytes = stop, 0
        stop += num_rows
        held_bytes += num_bytes
    yield _one_piece(layout.file, start, stop, held_bytes)


def _split_groups(layout: FileLayout, size: ShardSize) -> Iterator[tuple[int, int]]:
    """(rows, bytes) of each row group, one above twice the target split into even ranges."""
    for group in layout.row_groups:
        if group.num_rows == 0:
            continue
        share = size.share(group.num_rows, group.num_bytes)
        parts = min(group.num_rows, math.ceil(share)) if share > 2 else 1
        for part in range(parts):
            first = group.num_rows * part // parts
            last = group.num_rows * (part + 1) // parts
            yield last - first, group.num_bytes // parts


def _one_piece(file: CorpusFile, start: int, stop: int, num_bytes: int) -> Shard:
    pieces = (Piece(file, start, stop),)
    return Shard(name_shard(pieces), pieces, num_bytes)
