"""Parquet footers -> layouts, and a shard's pieces -> one Arrow table. With `pieces.py`, what opens corpus files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpus.footer import open_footer
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.nested import field_at, find_path
from pipeline.corpus.pieces import changed, column_indices, group_bytes, read_columns
from pipeline.corpus.shards import FileLayout, Piece, RowGroup, Shard
from pipeline.corpus.text import clean_text, find_broken_text
from pipeline.errors import BertmillError, CorpusError, CorruptFileError, first_line, name_some
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage, map_threads, retrying

_FOOTER_THREADS, _PIECE_THREADS = 64, 8
_MAX_LISTED = 10
_REMEDY = "; the spec's `inputs` (of a search its `text`) says which one is read"
REASON = "quarantine=reason"  # no column of a table has a "=" in its name
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Columns:
    """Which corpus columns a job touches: `inputs` feed the task, `kept` are copied through.

    `doc.body` names the field `body` of a struct column `doc`, in files that have no column of that very name.
    """

    inputs: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names under which `read_shard` returns the inputs."""
        return tuple(input_column(name) for name in self.inputs)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column once, inputs first."""
        return tuple(dict.fromkeys((*self.inputs, *self.kept)))


@dataclass(frozen=True)
class ReadOptions:
    """How rows come out.

    Attributes:
        kept_schema: Names and types of the kept columns, in the order of `Columns.kept`.
        quarantine_blank: Whether blank text is a bad row.
        quarantine_corrupt: Whether rows that stand in a corrupt part of a file are bad rows, not an error.
    """

    kept_schema: pa.Schema
    quarantine_blank: bool
    quarantine_corrupt: bool = False


@dataclass(frozen=True, slots=True)
class FileFooter:
    """What one footer tells: row groups, and the types of the columns a job touches."""

    layout: FileLayout
    schema: pa.Schema


@dataclass(frozen=True)
class SkippedFile:
    """A corrupt file that was left out, and why."""

    uri: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What the footers of a corpus tell, in the files' order, and which files are too corrupt to have one."""

    footers: tuple[FileFooter, ...]
    skipped: tuple[SkippedFile, ...] = ()


def read_footers(files: Sequence[CorpusFile], columns: Columns, storage: Storage) -> list[FileFooter]:
    """Read footers in parallel and check that every file has every column.

    Raises:
        CorpusError: naming every file (up to ten) that is corrupt or lacks a column.
    """
    return list(survey_files(files, columns, storage).footers)


def survey_files(files: Sequence[CorpusFile], columns: Columns, storage: Storage, skip_corrupt: bool = False) -> Survey:
    """Read footers in parallel and check that every file has every column.

    Args:
        files: The corpus.
        columns: Columns that every file must have.
        storage: The store.
        skip_corrupt: Leave out files that are not readable Parquet. A file that lacks a column or vanished is an
            error all the same, and so is a store that refuses or fails.

    Raises:
        CorpusError: naming every file (up to ten) that cannot be used.
    """
    skipped, problems, footers = [], [], []
    schemas: dict[pa.Schema, pa.Schema] = {}
    results = map_threads(lambda file: _footer_or_problem(file, columns, storage), files, _FOOTER_THREADS)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, FileFooter):
            # a corpus has few schemas and many files: equal ones are kept once
            footers.append(FileFooter(result.layout, schemas.setdefault(result.schema, result.schema)))
        elif skip_corrupt and isinstance(result, CorruptFileError):
            skipped.append(SkippedFile(file.uri, result.message.removeprefix(f"{file.uri}: ")))
        else:
            problems.append(result)
    if problems:
        _raise_together(problems, len(files))
    return Survey(tuple(footers), tuple(skipped))


def read_shard(shard: Shard, columns: Columns, options: ReadOptions, storage: Storage) -> pa.Table:
    """Read a shard's rows, in piece order.

    Returns:
        A table of `source_file`, `source_row`, the kept columns as `options.kept_schema` names them, one column
        `input=NAME` of clean text for each input (large_string, null where unusable) and `REASON` (string, set
        where any input is unusable).

    Raises:
        CorpusError: a file is corrupt, vanished, or is not the one that was planned.
    """
    read = map_threads(lambda piece: _read_piece(piece, columns, options, storage), shard.pieces, _PIECE_THREADS)
    return pa.concat_tables(list(read))


def _read_piece(piece: Piece, columns: Columns, options: ReadOptions, storage: Storage) -> pa.Table:
    try:
        values = guard_read(piece.file, lambda: read_columns(piece, columns.needed, storage))
    except CorruptFileError as problem:
        _check_unchanged(piece.file, storage)
        if not options.quarantine_corrupt:
            raise
        return _unreadable_rows(piece, columns, options, problem.message.removeprefix(f"{piece.file.uri}: "))
    _check_unchanged(piece.file, storage)
    if any(len(column) != piece.num_rows for column in values.values()):
        raise changed(piece.file)
    kept = {
        field.name: _cast(values[name], field, piece.file)
        for name, field in zip(columns.kept, options.kept_schema, strict=True)
    }
    arrays = {**_source_columns(piece), **kept}
    reasons = []
    for name in columns.inputs:
        arrays[input_column(name)], reason = _clean_column(values[name], options.quarantine_blank)
        reasons.append(reason)
    reasons += [find_broken_text(column, name) for name, column in kept.items()]
    arrays[REASON] = pc.coalesce(*reasons)
    return pa.table(arrays)


def _source_columns(piece: Piece) -> dict[str, pa.Array | pa.ChunkedArray]:
    return {
        SOURCE_FILE: pa.repeat(pa.scalar(piece.file.uri, pa.string()), piece.num_rows),
        SOURCE_ROW: pa.array(range(piece.start_row, piece.stop_row), pa.int64()),
    }


def _unreadable_rows(piece: Piece, columns: Columns, options: ReadOptions, reason: str) -> pa.Table:
    arrays = _source_columns(piece)
    arrays.update({field.name: pa.nulls(piece.num_rows, field.type) for field in options.kept_schema})
    arrays.update({name: pa.nulls(piece.num_rows, pa.large_string()) for name in columns.input_names})
    arrays[REASON] = pa.repeat(pa.scalar(reason), piece.num_rows)
    return pa.table(arrays)


def _cast(column: pa.ChunkedArray, field: pa.Field, file: CorpusFile) -> pa.ChunkedArray:
    """A kept column in its table type; timestamps lose what is below a microsecond, nothing else loses anything."""
    try:
        stored = column.cast(options=pc.CastOptions(field.type, allow_time_truncate=True))
        stored.validate()  # Arrow's cast of a list view inside a struct can be a list with too few offsets
        return stored
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(
            f"{file.uri}: column {field.name!r} is {column.type} and cannot be kept as {field.type}: "
            f"{first_line(error)}",
            "leave the column out, or store it with a type that fits",
        ) from None


def _clean_column(column: pa.ChunkedArray, quarantine_blank: bool) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    cleaned = [clean_text(chunk, quarantine_blank) for chunk in column.chunks]
    values = pa.chunked_array([item.values for item in cleaned], pa.large_string())
    return values, pa.chunked_array([item.reasons for item in cleaned], pa.string())


def input_column(name: str) -> str:
    """The name under which `read_shard` returns an input, apart from a kept column of the same name."""
    return f"input={name}"


def _footer_or_problem(file: CorpusFile, columns: Columns, storage: Storage) -> FileFooter | CorpusError:
    try:
        return guard_read(file, lambda: _read_footer(file, columns, storage))
    except CorpusError as problem:
        return problem


def _read_footer(file: CorpusFile, columns: Columns, storage: Storage) -> FileFooter:
    footer = _open_known(file, storage)
    metadata, schema = footer.metadata, footer.schema_arrow
    for key, _ in file.partition:
        if key not in schema.names:
            schema = schema.append(pa.field(key, pa.string()))
    doubled = [name for name in columns.needed if schema.names.count(name) > 1]
    if doubled:
        raise CorpusError(f"{file.uri}: has two columns {doubled[0]!r}", "rename one of them")
    paths = {name: find_path(schema, name) for name in columns.needed}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise CorpusError(
            f"{file.uri}: no column {', '.join(repr(name) for name in missing)}",
            _tell_columns(tuple(missing), tuple(schema.names))
            + (_REMEDY if set(missing) & set(columns.inputs) else ""),
        )
    leaves = column_indices(metadata, columns.needed)
    found = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    groups = tuple(RowGroup(group.num_rows, group_bytes(group, leaves)) for group in found)
    return FileFooter(
        FileLayout(file, groups), pa.schema([field_at(schema, p, name) for name, p in paths.items() if p])
    )


def _open_known(file: CorpusFile, storage: Storage) -> pq.ParquetFile:
    """A file's footer; Arrow opens none of which it lacks the type of one column, read or not (128-bit integers)."""
    filesystem, path = storage.open_arrow(file.uri)
    try:
        return open_footer(path, filesystem)
    except pa.ArrowNotImplementedError as error:
        raise CorpusError(
            f"{file.uri}: has a column, read here or not, of a type that Arrow does not know: {first_line(error)}",
            "leave the column out of the file, or store it with another type: 128-bit integers as text or decimals",
        ) from None


@lru_cache
def _tell_columns(missing: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The columns there are; of many the first ten, before them those that the missing ones may have meant."""
    near = [match for name in missing for match in get_close_matches(name, names)] if len(names) > _MAX_LISTED else []
    return f"the file's columns are: {name_some(list(dict.fromkeys((*near, *names))), _MAX_LISTED)}"


def guard_read(file: CorpusFile, read: Callable[[], ResultT]) -> ResultT:
    """Run a read of one file; storage errors keep their kind, anything else means the file is no good.

    Raises:
        CorpusError: the file is corrupt, or vanished.
    """
    try:
        return retrying(read, f"read {file.uri}")
    except BertmillError:
        raise
    except FileNotFoundError:
        raise changed(file) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(
            f"{file.uri}: not a readable Parquet file: {first_line(error)}",
            "restore or remove the file, then run again",
        ) from None


def _check_unchanged(file: CorpusFile, storage: Storage) -> None:
    found = storage.list_objects(file.uri)
    if [item.etag for item in found] != [file.etag]:
        raise changed(file)


def _raise_together(problems: list[CorpusError], num_files: int) -> None:
    if len(problems) == 1:
        raise problems[0]
    shown = "\n".join(f"- {problem.message}" for problem in problems[:_MAX_LISTED])
    raise CorpusError(f"{len(problems)} of {num_files} files cannot be used:\n{shown}", problems[0].remedy)
