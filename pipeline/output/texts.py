"""Which texts a scored file's rows were computed from, as 128-bit hashes beside it: for runs that reuse results.

One object for each scored file, 16 bytes for each of its rows, in their order. They are hints and no more: a run that
finds none, or whose file is gone, computes.

    _bertmill/texts/FINGERPRINT/run_date=2026-11-23/NAME.hashes    of    run_date=2026-11-23/NAME.parquet
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.output.table import night_of
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

HashArray = npt.NDArray[np.uint64]
"""[R, 2]: the two halves of each row's hash."""
IntArray = npt.NDArray[np.int64]

HASH_BYTES = 16
MAX_TEXTS = 2**23  # an index over them takes 0.2 GB of each worker, and 0.65 GB while it is built
MAX_FILES = 2**16
_FOLDER = "_bertmill/texts/"
_ENDING = ".hashes"
_THREADS = 16


@dataclass(frozen=True)
class HashedFile:
    """A scored file whose texts are known: path relative to the table, and its rows."""

    path: str
    num_rows: int


@dataclass(frozen=True)
class TextStore:
    """The hashes of a table's files under one fingerprint."""

    table_uri: str
    fingerprint: str
    storage: Storage

    def write(self, path: str, hashes: HashArray) -> None:
        """Note the texts of a scored file's rows, in their order."""
        self.storage.write_bytes(self._uri(path), hashes.astype(">u8").tobytes())

    def read(self, file: HashedFile) -> HashArray | None:
        """The hashes of a file's rows; None where they are gone, or not of as many rows."""
        content = self.storage.read_bytes(self._uri(file.path))
        if content is None or len(content) != file.num_rows * HASH_BYTES:
            return None
        return np.frombuffer(content, ">u8").astype(np.uint64).reshape(-1, 2)

    def delete(self, path: str) -> None:
        """Forget the texts of a file."""
        self.storage.delete(self._uri(path))

    def newest_files(self, max_texts: int = MAX_TEXTS, max_files: int = MAX_FILES) -> tuple[HashedFile, ...]:
        """The files written last, the newest first, as many as one index may hold: one listing."""
        found = [item for item in self.storage.list_objects(self._root) if item.uri.endswith(_ENDING)]
        files: list[HashedFile] = []
        for item in sorted(found, key=lambda item: (item.modified_s or 0.0, item.uri), reverse=True)[:max_files]:
            path = item.uri.removeprefix(self._root).strip("/").removesuffix(_ENDING) + ".parquet"
            max_texts -= item.size_bytes // HASH_BYTES
            if max_texts < 0:
                break
            files.append(HashedFile(path, item.size_bytes // HASH_BYTES))
        return tuple(files)

    def load_index(self, files: Sequence[HashedFile]) -> TextIndex:
        """An index over some files' texts; a text that stands in several is found in the first of them."""
        return TextIndex.of(files, map_threads(self.read, files, _THREADS, at_once=_THREADS))

    @property
    def _root(self) -> str:
        return join_uri(self.table_uri, _FOLDER.strip("/"), self.fingerprint[:32])

    def _uri(self, path: str) -> str:
        return join_uri(self._root, f"{path.removesuffix('.parquet')}{_ENDING}")


@dataclass(frozen=True)
class TextIndex:
    """Texts by their hash, sorted.

    Attributes:
        files: The files.
        hashes: [N, 2], each once, in order.
        places: [N, 2]; number of the file, and row in it.
    """

    files: tuple[HashedFile, ...]
    hashes: HashArray
    places: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, files: Sequence[HashedFile], found: Iterable[HashArray | None]) -> TextIndex:
        """Index what was read of each file."""
        hashes = np.empty((sum(file.num_rows for file in files), 2), np.uint64)
        places = np.empty(hashes.shape, np.uint32)
        stop = 0
        for number, part in enumerate(found):
            if part is not None:
                start, stop = stop, stop + len(part)
                hashes[start:stop], places[start:stop, 0], places[start:stop, 1] = part, number, np.arange(len(part))
        hashes, places = hashes[:stop], places[:stop]
        order = np.argsort(hashes[:, 0])
        halves = hashes[order, 0]
        begins = np.flatnonzero(np.concatenate([halves[:1] == halves[:1], halves[1:] != halves[:-1]]))
        firsts = np.minimum.reduceat(order, begins) if stop else order
        return cls(tuple(files), hashes[firsts], places[firsts])

    def find(self, hashes: HashArray) -> IntArray:
        """Where each text stands in the index [R]; -1 where it does not.

        Of texts that share the first half of their hashes (of 2**23 texts, once in 500,000 indexes) one is found.
        """
        if not len(self.hashes):
            return np.full(len(hashes), -1, np.int64)
        at = np.minimum(np.searchsorted(self.hashes[:, 0], hashes[:, 0]), len(self.hashes) - 1)
        return np.where((self.hashes[at] == hashes).all(axis=1), at, -1)

    def by_file(self, positions: IntArray) -> Iterator[tuple[HashedFile, IntArray, IntArray]]:
        """(file, which of `positions` stand in it, their rows there in order), file by file."""
        numbers, rows = self.places[positions, 0], self.places[positions, 1].astype(np.int64)
        order = np.lexsort((rows, numbers))
        for which in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            if len(which):
                yield self.files[numbers[which[0]]], which, rows[which]


def group_equal(hashes: HashArray) -> tuple[IntArray, IntArray]:
    """(first row of each different hash, by hash; for each row [R], which of those it equals)."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal ones stay in their order
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(begins) - 1
    return order[begins], groups


def described_path(path: str) -> str | None:
    """The scored file whose texts an object of a table holds; None for any other object."""
    if not (path.startswith(_FOLDER) and path.endswith(_ENDING)):
        return None
    described = path.removeprefix(_FOLDER).partition("/")[2].removesuffix(_ENDING) + ".parquet"
    return described if night_of(described) else None
