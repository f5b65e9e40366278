"""Labelled Parquet -> splits whose columns, labels and rows are known to be usable, or why they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import pyarrow as pa

from pipeline.config import Uris
from pipeline.corpus.column_types import holds_words
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.pieces import read_columns
from pipeline.corpus.reader import Columns, ReadOptions, read_shard
from pipeline.corpus.rows import open_rows
from pipeline.corpus.shards import FileLayout, Piece, Shard
from pipeline.errors import CorpusError, Problem, SpecError, first_line, name_some
from pipeline.output.rows import check_nights
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage, retrying
from pipeline.tasks.base import Learned, Task, targets_of
from pipeline.tasks.usable import MAX_NAMED, find_usable, list_reasons


@dataclass(frozen=True)
class LabelledSet:
    """One split: its shards, how its columns are read, and what the task learns from its targets.

    `texts` holds, for each of a row's model inputs, the one or two columns it is made of.
    """

    shards: tuple[Shard, ...]
    texts: tuple[tuple[str, ...], ...]
    columns: Columns
    options: ReadOptions
    are_words: bool
    learned: Learned

    @property
    def num_rows(self) -> int:
        """Rows, usable or not."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names, the columns read and the labels."""
        parts = [sorted(shard.name for shard in self.shards), self.texts, self.columns.kept, self.learned.labels]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class UsableRows:
    """Rows of a shard or a split that can be trained or evaluated on, where they stand, and why the others cannot."""

    texts: tuple[pa.ChunkedArray, ...]
    targets: pa.ChunkedArray
    places: pa.Table
    reasons: list[str]


def read_usable(shard: Shard, split: LabelledSet, task: Task, learned: Learned, storage: Storage) -> UsableRows:
    """Read a shard and leave out rows without usable text or target."""
    rows = read_shard(shard, split.columns, split.options, storage)
    good, reasons = find_usable(rows, split.columns, task, learned)
    texts = tuple(map(good.column, split.columns.input_names))
    return UsableRows(texts, targets_of(good, split.columns.kept), good.select([SOURCE_FILE, SOURCE_ROW]), reasons)


def read_split(
    split: LabelledSet, task: Task, learned: Learned, max_bad_fraction: float, storage: Storage
) -> UsableRows:
    """Read all usable rows of a split, in the order of its shards.

    Raises:
        CorpusError: more rows than allowed have no usable text or target.
    """
    parts = [read_usable(shard, split, task, learned, storage) for shard in split.shards]
    reasons = [reason for part in parts for reason in part.reasons]
    check_usable(split.num_rows, len(reasons), reasons, max_bad_fraction)
    texts = tuple(_joined(columns) for columns in zip(*(part.texts for part in parts), strict=True))
    places = pa.concat_tables([part.places for part in parts])
    return UsableRows(texts, _joined([part.targets for part in parts]), places, reasons)


def _joined(arrays: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], arrays[0].type)


@dataclass(frozen=True)
class LabelTarget:
    """What a split is learned from.

    Attributes:
        column: The target column; None for a task that goes without.
        learned: What is known of it beforehand, from a teacher; None: it is learned from the column.
    """

    column: str | None
    learned: Learned | None = None


def open_split(
    uris: Uris,
    task: Task,
    texts: tuple[tuple[str, ...], ...],
    target: LabelTarget,
    storage: Storage,
) -> LabelledSet:
    """List a split, check its files and columns, and read its targets (not its text).

    Args:
        uris: The split's files.
        task: What learns from it.
        texts: The columns of each model input.
        target: The target column.
        storage: The stores.

    Raises:
        CorpusError: a path, file or column is not there, or there are no rows.
    """
    column = target.column
    columns = Columns(tuple(chain.from_iterable(texts)), (column,) if column else ())
    check_nights(uris, storage)
    opened = open_rows(list_corpus(uris, storage), columns, storage)
    targets = pa.chunked_array([pa.nulls(0)])
    if column and target.learned is None:
        targets = _read_targets([footer.layout for footer in opened.footers], opened.options.kept_schema, storage)
    try:
        learned = task.learn(targets) if target.learned is None else target.learned
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise CorpusError(
            f"{', '.join(uris)}: column {column!r} is {targets.type}; task {task.name} cannot learn from it: "
            f"{first_line(error)}",
            "name the target column with data.label, or choose the task that fits it",
        ) from None
    return LabelledSet(opened.shards, texts, columns, opened.options, holds_words(opened.footers, columns), learned)


@dataclass(frozen=True)
class LabelPlaces:
    """Where labels were asked for: the spec, and the field that names the data."""

    source: str
    field: str


def check_labels(task: Task, train: LabelledSet, validation: LabelledSet | None, places: LabelPlaces) -> None:
    """Targets make sense: something to tell apart in training, and no label in validation that training never had.

    Raises:
        SpecError: naming the labels.
    """
    labels = train.learned.labels
    problems = []
    has_classes = "id2label" in task.head_config(train.learned)
    if has_classes and len(labels) < 2:
        found = ", ".join(labels) or "none"
        column = train.columns.kept[0]
        problems.append(
            Problem(f"{places.field}.train", f"column {column!r} holds the labels: {found}", "two labels or more")
        )
    elif train.learned.sameness:
        found = f"column {train.columns.kept[0]!r} has in every row {train.learned.sameness}"
        problems.append(Problem(f"{places.field}.train", found, "rows that differ"))
    unknown = sorted(set(validation.learned.labels) - set(labels)) if validation and labels else []
    if unknown:
        named = name_some([repr(label) for label in unknown], MAX_NAMED)
        remedy = "add training rows of those labels, or take those rows out of validation"
        expected = f"some of: {name_some(labels, MAX_NAMED)}"
        problems.append(Problem(f"{places.field}.validation", f"labels never trained: {named}", expected, remedy))
    if problems:
        raise SpecError(places.source, tuple(problems))


def check_usable(num_rows: int, num_bad: int, reasons: Sequence[str], max_bad_fraction: float) -> None:
    """Refuse a split of which too much cannot be used.

    Raises:
        CorpusError: with the first reasons.
    """
    if num_bad > max_bad_fraction * num_rows or num_bad == num_rows:
        raise CorpusError(
            f"{num_bad} of {num_rows} labelled rows cannot be used, more than data.max_bad_fraction "
            f"{max_bad_fraction}:\n{list_reasons(reasons)}",
            "mend the data, or raise data.max_bad_fraction",
        )


def _read_targets(layouts: Sequence[FileLayout], schema: pa.Schema, storage: Storage) -> pa.ChunkedArray:
    """The target column of all files, cast to the type they share; a hive key counts as a column."""
    (field,) = schema
    chunks: list[pa.Array] = []
    for layout in layouts:
        read = partial(read_columns, Piece(layout.file, 0, layout.num_rows), [field.name], storage)
        try:
            found = retrying(read, f"read {layout.file.uri}")[field.name]
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(
                f"{layout.file.uri}: column {field.name!r} cannot be read: {first_line(error)}",
                "restore the file, or take it out of the data",
            ) from None
        try:
            chunks += found.cast(field.type).chunks
        except pa.ArrowException as error:
            raise CorpusError(
                f"{layout.file.uri}: column {field.name!r} is {found.type} and cannot be taken as {field.type}: "
                f"{first_line(error)}",
                "store the targets with a type that fits; labels may be text",
            ) from None
    return pa.chunked_array(chunks, field.type)
