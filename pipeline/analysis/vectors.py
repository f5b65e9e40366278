"""A night's embeddings, read once: unit vectors in a file of this machine's disk, and where each row stands.

In memory: 28 bytes for each row, a row group, and the names of the source files.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CorpusError, InputError, Problem, SpecError
from pipeline.output.nights import StandingNight
from pipeline.output.row_groups import read_row_groups
from pipeline.schema import SOURCE_FILE, SOURCE_ROW, holds_vectors
from pipeline.storage import Storage, classify_error
from pipeline.telemetry import ProgressDisplay
from pipeline.uris import join_uri

FloatMatrix = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
KEYS = [SOURCE_FILE, SOURCE_ROW]


@dataclass(frozen=True)
class NightVectors:
    """The N rows of a night that have an embedding, by source file and row.

    Attributes:
        night: Where they are from.
        unit_ND: Their embeddings at length 1, float32 [N, D], on disk; in the order of `positions`, not of the rows.
        spots: int64 [N]; where in `unit_ND` the vector of each row is.
        positions: int64 [N]; which row of the night, in the order of its files, stands at each place of `unit_ND`.
        num_without: Rows without an embedding, or with one that is zero or not finite: they are left out.
        source_files: Names, sorted.
        source_codes: int32 [N]; each row's number in `source_files`.
        source_rows: int64 [N].
    """

    night: StandingNight
    unit_ND: FloatMatrix
    spots: IntArray
    positions: IntArray
    num_without: int
    source_files: tuple[str, ...]
    source_codes: npt.NDArray[np.int32]
    source_rows: IntArray

    def __len__(self) -> int:
        return len(self.spots)

    def take(self, rows: IntArray) -> FloatMatrix:
        """The unit vectors of some rows, [R, D], in memory."""
        return np.asarray(self.unit_ND[self.spots[rows]])

    def keys(self, rows: IntArray) -> dict[str, pa.Array]:
        """Where some rows stand in the corpus, as columns."""
        files = pa.DictionaryArray.from_arrays(
            pa.array(self.source_codes[rows]), pa.array(self.source_files, pa.string())
        )
        return {SOURCE_FILE: files.dictionary_decode(), SOURCE_ROW: pa.array(self.source_rows[rows])}

    def by_position(self) -> IntArray:
        """int64 [rows of the night]; which row of these each row of the night is, -1 where it has no embedding."""
        found = np.full(len(self.positions) + self.num_without, -1, np.int64)
        rows = np.empty(len(self.spots), np.int64)
        rows[self.spots] = np.arange(len(self.spots))
        found[self.positions] = rows
        return found


@dataclass(frozen=True)
class VectorColumn:
    """A column of a night.

    Attributes:
        night: The night.
        schema: Its columns; where one of its files lacks one, rows have null there.
        column: The column.
        work: The local folder that its vectors may be kept in meanwhile; made if it is not there.
    """

    night: StandingNight
    schema: pa.Schema
    column: str
    work: str | None = None

    def check(self, keep: Sequence[str]) -> None:
        """Make sure that the night has the column, and others that a result shall repeat.

        Raises:
            SpecError: it has not, or the column holds something else than lists of floats.
        """
        schema = self.schema
        problems = []
        if self.column not in schema.names:
            vectors = [field.name for field in schema if holds_vectors(field.type)]
            expected = f"a column of vectors ({', '.join(vectors) or 'there is none'})"
            has_embedding = any(name.endswith("embedding") for name in vectors)
            remedy = "" if has_embedding else "score with `output: {embedding: true}`"
            problems.append(Problem("column", f"{self.column!r} is not in the table", expected, remedy))
        elif not holds_vectors(schema.field(self.column).type):
            found = f"{self.column!r} is {schema.field(self.column).type}"
            problems.append(Problem("column", found, "lists of floats"))
        unknown = [name for name in keep if name not in schema.names]
        if unknown:
            problems.append(Problem("keep", f"{', '.join(unknown)} not there", f"some of {', '.join(schema.names)}"))
        if problems:
            raise SpecError(self.night.table, tuple(problems))

    @contextlib.contextmanager
    def read(self, storage: Storage) -> Iterator[NightVectors]:
        """The night's vectors, for as long as the context lasts.

        Raises:
            InputError: the local folder cannot be used.
            CorpusError: vectors differ in width, or there are none.
            StorageFullError: the local folder has no room for them.
            AccountingError: a file of the night is gone.
        """
        with work_folder(self.work) as folder:
            yield self._spool(folder / "vectors", storage)

    def row_groups(self, columns: Sequence[str], storage: Storage) -> Iterator[pa.Table]:
        """The night's rows, in the order of its files."""
        wanted = pa.schema([self.schema.field(name) for name in columns])
        for file in self.night.files:
            yield from read_row_groups(join_uri(self.night.table, file.path), storage, wanted)

    def numbered_rows(
        self, vectors: NightVectors, columns: Sequence[str], storage: Storage
    ) -> Iterator[tuple[pa.Table, IntArray]]:
        """The night's rows, in the order of its files.

        Yields:
            R rows, and int64 [R]: which row of `vectors` each of them is, -1 where it has no embedding.
        """
        by_position, start = vectors.by_position(), 0
        for table in self.row_groups(columns, storage):
            yield table, by_position[start : start + table.num_rows]
            start += table.num_rows

    def chosen_rows(
        self, vectors: NightVectors, chosen: IntArray, columns: Sequence[str], storage: Storage
    ) -> Iterator[tuple[pa.Table, IntArray]]:
        """Some rows of `vectors`, in the order of the night's files.

        Yields:
            R rows, and int64 [R]: where in `chosen` each of them is.
        """
        places = np.full(len(vectors), -1, np.int64)
        places[chosen] = np.arange(len(chosen))
        for table, rows in self.numbered_rows(vectors, columns, storage):
            found = np.where(rows >= 0, places[rows], -1)
            yield table.filter(pa.array(found >= 0)), found[found >= 0]

    def _spool(self, path: Path, storage: Storage) -> NightVectors:
        names: dict[str, int] = {}
        codes, rows, positions = [], [], []
        num_rows = width = 0
        with path.open("wb") as file, ProgressDisplay("reading", self.night.num_rows, "rows") as progress:
            for table in self.row_groups([*KEYS, self.column], storage):
                good, unit = unit_vectors(table[self.column].combine_chunks())
                if unit.size and width not in (0, unit.shape[1]):
                    raise _widths_differ(self, width, unit.shape[1])
                width = unit.shape[1] if unit.size else width
                _write(file, unit, path)
                kept = table.select(KEYS).filter(pa.array(good))
                codes.append(_codes(kept[SOURCE_FILE], names))
                rows.append(kept[SOURCE_ROW].to_numpy())
                positions.append(np.flatnonzero(good) + num_rows)
                num_rows += table.num_rows
                progress.update(num_rows, "")
        if num_rows == 0:
            raise CorpusError(
                f"{self.night.table}: night {self.night.run_date} holds no rows",
                "nothing was new that night, or everything was quarantined: take another night",
            )
        if width == 0:
            raise CorpusError(
                f"{self.night.table}: no row of night {self.night.run_date} has a vector in {self.column!r}",
                "score with `output: {embedding: true}`, or name another column",
            )
        at = np.concatenate(positions)
        ordered = sorted(names)
        rank = np.empty(len(names), np.int32)
        rank[[names[name] for name in ordered]] = np.arange(len(ordered), dtype=np.int32)
        all_codes, all_rows = rank[np.concatenate(codes)], np.concatenate(rows)
        spots = np.lexsort((all_rows, all_codes))
        unit_ND = np.memmap(path, np.float32, "r", shape=(len(at), width))
        return NightVectors(
            self.night, unit_ND, spots, at, num_rows - len(at), tuple(ordered), all_codes[spots], all_rows[spots]
        )


@contextlib.contextmanager
def work_folder(work: str | None) -> Iterator[Path]:
    """A new folder in `work`, which is made if it is not there, for as long as the context lasts.

    Raises:
        InputError: none can be made there.
    """
    try:
        if work is not None:
            Path(work).mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="bertmill-", dir=work)
    except OSError as error:
        found = f"work: {work or tempfile.gettempdir()} cannot be used: {error.strerror}"
        raise InputError(found, "name a local folder that can be written to") from None
    with folder as name:
        yield Path(name)


def unit_vectors(column: pa.Array) -> tuple[npt.NDArray[np.bool_], FloatMatrix]:
    """Lists of numbers as vectors of length 1.

    Args:
        column: R lists of floats.

    Returns:
        bool [R], which of them are vectors with a direction (not null, empty, infinite or zero); and those, [G, D].

    Raises:
        CorpusError: two of them have another width than each other.
    """
    widths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)
    good = widths > 0
    found = np.unique(widths[good])
    if len(found) > 1:
        raise CorpusError(f"vectors of {found[0]} and of {found[1]} numbers", "name a column of vectors of one width")
    if not len(found):
        return good, np.empty((0, 0), np.float32)
    flat = pc.list_flatten(column.filter(pa.array(good))).to_numpy(zero_copy_only=False)
    matrix = np.asarray(flat, np.float64).reshape(-1, found[0])
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt((matrix * matrix).sum(axis=1))
    usable = np.isfinite(lengths) & (lengths > 0)
    good[good] = usable
    return good, (matrix[usable] / lengths[usable, None]).astype(np.float32)


def _write(file: object, unit: FloatMatrix, path: Path) -> None:
    """A full disk must be an error here: of a mapped file it would be a signal."""
    try:
        file.write(unit.tobytes())  # type: ignore[attr-defined]
        file.flush()  # type: ignore[attr-defined]
    except OSError as error:
        raise classify_error(error, f"write {path}") or error from None


def _codes(column: pa.ChunkedArray, names: dict[str, int]) -> npt.NDArray[np.int32]:
    encoded = column.combine_chunks().dictionary_encode()
    local = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.array(local, np.int32)[encoded.indices.to_numpy()] if local else np.empty(0, np.int32)


def _widths_differ(column: VectorColumn, one: int, other: int) -> CorpusError:
    return CorpusError(
        f"{column.night.table}: night {column.night.run_date} has vectors of {one} and of {other} numbers",
        "a night has one model; `bertmill table verify` says which file is wrong",
    )
