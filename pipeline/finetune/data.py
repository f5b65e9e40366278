"""Labelled Parquet -> checked labels and a token cache: each text is tokenised once, for every later run too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Uris
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import (
    REASON,
    Columns,
    ReadOptions,
    holds_words,
    input_column,
    kept_schema,
    read_footers,
    read_shard,
)
from pipeline.corpus.shards import Shard, ShardSize, cut_shards
from pipeline.encoder.attention import set_threads
from pipeline.encoder.model import load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions, TokenRows, concat_lengths, interleave_rows
from pipeline.errors import CorpusError, Problem, SpecError
from pipeline.output.writer import write_parquet
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Examples, Learned, Task, WindowTargets, targets_of
from pipeline.uris import join_uri

_SHARD_SIZE = ShardSize(rows=65_536, bytes=64 * 2**20)
_CACHE_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("type_ids", pa.list_(pa.uint8())),
        ("target", pa.list_(pa.float32())),
        ("weight", pa.int64()),
    ]
)
_NUM_BAD, _REASONS = b"bertmill.num_bad_rows", b"bertmill.reasons"
_MAX_NAMED = 10


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
        """Hash of the shards' names and the columns read."""
        parts = [sorted(shard.name for shard in self.shards), self.texts, self.columns.kept]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class TokenCacheJob:
    """What a tokenising worker is told."""

    tokenizer_source: str
    token_options: TokenOptions
    task: str
    learned: Learned
    split: LabelledSet
    cache_uri: str
    num_threads: int
    storage: Storage

    def build(self) -> TokenCacheWriter:
        """Load the tokenizer in the worker's own process."""
        set_threads(self.num_threads)
        return TokenCacheWriter(self, TextTokenizer(load_tokenizer(self.tokenizer_source), self.token_options))


class TokenCacheWriter:
    """Tokenises shards, one file each; doing one twice writes the same file again."""

    def __init__(self, job: TokenCacheJob, tokenizer: TextTokenizer) -> None:
        self._job = job
        self._tokenizer = tokenizer
        self._task = find_task(job.task, "spec")

    def process(self, shard: Shard) -> pa.Table:
        """Tokenise a shard's usable rows and write their windows and targets.

        Returns:
            One row: how many rows were read and how many tokens kept.
        """
        job = self._job
        usable = read_usable(shard, job.split, self._task, job.learned, job.storage)
        tokens, targets = self._encode(usable)
        columns = [
            _lists(tokens.offsets, pa.array(tokens.ids, pa.int32())),
            _type_lists(tokens),
            _lists(targets.offsets, pa.array(targets.values, pa.float32())),
            pa.array(targets.weights),
        ]
        footer = {
            _NUM_BAD.decode(): str(len(usable.reasons)),
            _REASONS.decode(): json.dumps(usable.reasons[:_MAX_NAMED]),
        }
        write_parquet(pa.table(columns, schema=_CACHE_SCHEMA), cache_file(job.cache_uri, shard), footer, job.storage)
        return pa.table({"num_rows": [shard.num_rows], "num_tokens": [len(tokens.ids)]})

    def _encode(self, usable: UsableRows) -> tuple[TokenRows, WindowTargets]:
        parts = encode_inputs(usable.texts, self._job.split.texts, self._tokenizer)
        examples = Examples(usable.texts, parts[0], self._job.split.are_words)
        targets = self._task.window_targets(usable.targets, examples, self._job.learned)
        return interleave_rows(parts), _spread(targets, len(parts))


def encode_inputs(
    texts: Sequence[pa.ChunkedArray], groups: Sequence[tuple[str, ...]], tokenizer: TextTokenizer
) -> list[TokenRows]:
    """Tokens of each of a row's model inputs.

    Args:
        texts: All texts of the rows, in the order of the groups [R].
        groups: The columns that make each model input.
        tokenizer: Tokenises one or two texts as one input.
    """
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [tokenizer.encode(*texts[end - len(group) : end]) for group, end in zip(groups, ends, strict=True)]


def _spread(targets: WindowTargets, num_texts: int) -> WindowTargets:
    """A row's targets stand with the first of its texts; the others have none."""
    if num_texts == 1:
        return targets
    lengths = np.zeros((len(targets.weights), num_texts), np.int64)
    lengths[:, 0] = np.diff(targets.offsets)
    weights = np.zeros_like(lengths)
    weights[:, 0] = targets.weights
    return WindowTargets(targets.values, concat_lengths([lengths.reshape(-1)]), weights.reshape(-1))


@dataclass(frozen=True)
class UsableRows:
    """Rows of a shard that can be trained or evaluated on, and why the others cannot."""

    texts: tuple[pa.ChunkedArray, ...]
    targets: pa.ChunkedArray
    reasons: list[str]


def read_usable(shard: Shard, split: LabelledSet, task: Task, learned: Learned, storage: Storage) -> UsableRows:
    """Read a shard and leave out rows without usable text or target."""
    rows = read_shard(shard, split.columns, split.options, storage)
    good = rows.filter(pc.is_null(rows[REASON]))
    names = [input_column(name) for group in split.texts for name in group]
    why = task.check(targets_of(good, split.columns.kept), [good[name] for name in names], learned)
    bad_text = rows.filter(pc.is_valid(rows[REASON]))
    bad_target = good.filter(pc.is_valid(why))
    reasons = _located(bad_text, bad_text[REASON]) + _located(bad_target, pc.drop_null(why))
    good = good.filter(pc.is_null(why))
    return UsableRows(tuple(good[name] for name in names), targets_of(good, split.columns.kept), reasons)


def _located(rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> list[str]:
    places = zip(rows[SOURCE_FILE].to_pylist(), rows[SOURCE_ROW].to_pylist(), reasons.to_pylist(), strict=True)
    return [f"{file} row {row}: {reason}" for file, row, reason in places]


def _lists(offsets: npt.NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _type_lists(tokens: TokenRows) -> pa.Array:
    if tokens.type_ids is None:
        return pa.nulls(len(tokens), _CACHE_SCHEMA.field("type_ids").type)
    return _lists(tokens.offsets, pa.array(tokens.type_ids))


@dataclass(frozen=True)
class TokenData:
    """A split in memory, in shard order.

    A training row is a window; or, for tasks that compare texts, `texts_per_row` windows one after the other, of
    which the first carries the target.
    """

    rows: TokenRows
    targets: WindowTargets
    texts_per_row: int = 1

    def __len__(self) -> int:
        return len(self.rows) // self.texts_per_row

    @property
    def row_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each training row, over its windows."""
        return np.asarray(self.rows.lengths.reshape(-1, self.texts_per_row).sum(axis=1), np.int64)

    def windows_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Windows of training rows, row after row."""
        return np.asarray(rows[:, None] * self.texts_per_row + np.arange(self.texts_per_row), np.int64).reshape(-1)


def open_split(
    uris: Uris, task: Task, texts: tuple[tuple[str, ...], ...], target: str | None, storage: Storage
) -> LabelledSet:
    """List a split, check its files and columns, and read its targets (not its text).

    Args:
        uris: The split's files.
        task: What learns from it.
        texts: The columns of each model input.
        target: The target column; None for a task that goes without.
        storage: The stores.

    Raises:
        CorpusError: a path, file or column is not there, or there are no rows.
    """
    columns = Columns(tuple(chain.from_iterable(texts)), (target,) if target else ())
    footers = read_footers(list_corpus(uris, storage), columns, storage)
    shards = cut_shards((footer.layout for footer in footers), _SHARD_SIZE)
    if not shards:
        raise CorpusError(f"{', '.join(uris)}: no rows in {len(footers)} files", "labelled rows are needed")
    options = ReadOptions(kept_schema(footers, columns.kept), quarantine_blank=True)
    targets = pa.chunked_array([pa.nulls(0)])
    if target:
        targets = _read_targets([footer.layout.file for footer in footers], options.kept_schema, storage)
    try:
        learned = task.learn(targets)
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise CorpusError(
            f"{', '.join(uris)}: column {target!r} is {targets.type}; task {task.name} cannot learn from it: "
            f"{str(error).splitlines()[0]}",
            "name the target column with data.label, or choose the task that fits it",
        ) from None
    return LabelledSet(tuple(shards), texts, columns, options, holds_words(footers, columns), learned)


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
    unknown = sorted(set(validation.learned.labels) - set(labels)) if validation else []
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:_MAX_NAMED])
        remedy = "add training rows of those labels, or take those rows out of validation"
        expected = f"some of: {', '.join(labels[:_MAX_NAMED])}"
        problems.append(Problem(f"{places.field}.validation", f"labels never trained: {named}", expected, remedy))
    if problems:
        raise SpecError(places.source, tuple(problems))


def cache_file(cache_uri: str, shard: Shard) -> str:
    """The token cache's file for a shard."""
    return join_uri(cache_uri, f"{shard.name}.parquet")


def missing_shards(split: LabelledSet, cache_uri: str, storage: Storage) -> list[Shard]:
    """Shards that the token cache does not hold yet."""
    there = {item.uri for item in storage.list_objects(cache_uri)}
    return [shard for shard in split.shards if cache_file(cache_uri, shard) not in there]


def check_cached(split: LabelledSet, cache_uri: str, max_bad_fraction: float, storage: Storage) -> None:
    """Look up in the cache how many rows of a split could not be used, and why.

    Raises:
        CorpusError: more of them than allowed.
    """
    num_bad, reasons = 0, []
    for shard in split.shards:
        filesystem, path = storage.open_arrow(cache_file(cache_uri, shard))
        footer = pq.read_metadata(path, filesystem=filesystem).metadata
        num_bad += int(footer[_NUM_BAD])
        reasons += json.loads(footer[_REASONS])
    check_usable(split.num_rows, num_bad, reasons, max_bad_fraction)


def check_usable(num_rows: int, num_bad: int, reasons: Sequence[str], max_bad_fraction: float) -> None:
    """Refuse a split of which too much cannot be used.

    Raises:
        CorpusError: with the first reasons.
    """
    if num_bad > max_bad_fraction * num_rows or num_bad == num_rows:
        shown = "\n".join(f"- {reason}" for reason in reasons[:_MAX_NAMED])
        raise CorpusError(
            f"{num_bad} of {num_rows} labelled rows cannot be used, more than data.max_bad_fraction "
            f"{max_bad_fraction}:\n{shown}",
            "mend the data, or raise data.max_bad_fraction",
        )


def load_tokens(files: Iterable[str], texts_per_row: int, storage: Storage) -> TokenData:
    """Read cache files into memory, in the order given."""
    parts = [_read_cached(uri, storage) for uri in files]
    ids = np.concatenate([np.zeros(0, np.int32), *(part.ids for part in parts)])
    types = _joined_types([part for part in parts if len(part.lengths)])
    offsets = concat_lengths([part.lengths for part in parts])
    rows = TokenRows(ids, offsets, np.zeros(len(offsets) - 1, np.bool_), None, types)
    targets = WindowTargets(
        np.concatenate([np.zeros(0, np.float32), *(part.targets for part in parts)]),
        concat_lengths([part.target_lengths for part in parts]),
        np.concatenate([np.zeros(0, np.int64), *(part.weights for part in parts)]),
    )
    return TokenData(rows, targets, texts_per_row)


@dataclass(frozen=True)
class _CachedPart:
    ids: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    types: npt.NDArray[np.uint8] | None
    targets: npt.NDArray[np.float32]
    target_lengths: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]


def _read_cached(uri: str, storage: Storage) -> _CachedPart:
    filesystem, path = storage.open_arrow(uri)
    table = pq.read_table(path, filesystem=filesystem, partitioning=None).combine_chunks()
    ids, types, targets = (_flat(table[name]) for name in ("ids", "type_ids", "target"))
    has_types = table["type_ids"].null_count == 0 and table.num_rows > 0
    return _CachedPart(
        ids.astype(np.int32),
        _lengths(table["ids"]),
        types.astype(np.uint8) if has_types else None,
        targets.astype(np.float32),
        _lengths(table["target"]),
        table["weight"].to_numpy().astype(np.int64),
    )


def _joined_types(parts: Sequence[_CachedPart]) -> npt.NDArray[np.uint8] | None:
    """Segments of parts that hold rows; a shard without any usable row knows nothing of segments."""
    types = [part.types for part in parts if part.types is not None]
    return np.concatenate(types) if types and len(types) == len(parts) else None


def _flat(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    return np.asarray(pc.list_flatten(column).to_numpy())


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.list_value_length(column).to_numpy(), np.int64)


def _read_targets(files: Sequence[CorpusFile], schema: pa.Schema, storage: Storage) -> pa.ChunkedArray:
    """The target column of all files, cast to the type they share; a hive key counts as a column."""
    (field,) = schema
    chunks: list[pa.Array] = []
    for file in files:
        filesystem, path = storage.open_arrow(file.uri)
        with pq.ParquetFile(path, filesystem=filesystem) as parquet:
            if field.name in parquet.schema_arrow.names:
                chunks += parquet.read([field.name])[field.name].cast(field.type).chunks
            else:
                value = pa.scalar(dict(file.partition)[field.name])
                chunks.append(pa.repeat(value, parquet.metadata.num_rows).cast(field.type))
    return pa.chunked_array(chunks, field.type)
