"""A split's token ids and targets in Parquet: each text is tokenised once, for every later run too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.corpus.shards import Shard
from pipeline.encoder.attention import set_threads
from pipeline.encoder.bundle import resolve_encoder
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions, TokenRows, concat_lengths, interleave_rows
from pipeline.finetune.labelled import LabelledSet, UsableRows, check_usable, read_usable
from pipeline.output.writer import write_parquet
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Examples, Learned, WindowTargets
from pipeline.uris import join_uri

CACHE_FORMAT = 3
_TRAINED_ON = ("ids", "type_ids", "target", "weight")
_CACHE_SCHEMA = pa.schema(
    [
        (SOURCE_FILE, pa.string()),
        (SOURCE_ROW, pa.int64()),
        ("ids", pa.list_(pa.int32())),
        ("type_ids", pa.list_(pa.uint8())),
        ("target", pa.list_(pa.float32())),
        ("weight", pa.int64()),
    ]
)
_NUM_BAD, _REASONS = b"bertmill.num_bad_rows", b"bertmill.reasons"
_MAX_NAMED = 10


@dataclass(frozen=True)
class TokenCacheJob:
    """What a tokenising worker is told; `model` is fetched to its node if need be."""

    model: str
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
        tokenizer = load_tokenizer(resolve_encoder(self.model, self.storage))
        return TokenCacheWriter(self, TextTokenizer(tokenizer, self.token_options))


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
        tokens, targets, rows = self._encode(usable)
        columns = [
            *(_column(usable.places[name], name).take(rows) for name in (SOURCE_FILE, SOURCE_ROW)),
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

    def _encode(self, usable: UsableRows) -> tuple[TokenRows, WindowTargets, pa.Array]:
        """Windows, their targets, and the row that each is of."""
        parts = encode_inputs(usable.texts, self._job.split.texts, self._tokenizer)
        examples = Examples(usable.texts, parts[0], self._job.split.are_words)
        targets = self._task.window_targets(usable.targets, examples, self._job.learned)
        rows = parts[0].window_rows if len(parts) == 1 else np.repeat(np.arange(len(usable.targets)), len(parts))
        return interleave_rows(parts), _spread(targets, len(parts)), pa.array(rows, pa.int64())


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


def _column(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return values.cast(_CACHE_SCHEMA.field(name).type)


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

    def stack_targets(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Targets of some windows that have equally many each: [B, K]."""
        offsets = self.targets.offsets
        return np.stack([self.targets.values[offsets[window] : offsets[window + 1]] for window in windows])


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


def locate_rows(files: Iterable[str], rows: Sequence[int], texts_per_row: int, storage: Storage) -> list[str]:
    """Where training rows stand in the data they were read from: `FILE rows 3, 17` for each file.

    Args:
        files: The cache's files, in the order in which they were loaded.
        rows: Row numbers, as `TokenData` counts them.
        texts_per_row: Windows of each row.
        storage: The stores.
    """
    names = [SOURCE_FILE, SOURCE_ROW]
    tables = []
    for uri in files:
        filesystem, path = storage.open_arrow(uri)
        tables.append(pq.read_table(path, columns=names, filesystem=filesystem, partitioning=None))
    found = pa.concat_tables(tables).take([row * texts_per_row for row in rows]).to_pylist()
    by_file: dict[str, set[int]] = {}
    for place in found:
        by_file.setdefault(place[SOURCE_FILE], set()).add(place[SOURCE_ROW])
    return [f"{file} rows {', '.join(map(str, sorted(numbers)))}" for file, numbers in sorted(by_file.items())]


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
    table = pq.read_table(path, columns=list(_TRAINED_ON), filesystem=filesystem, partitioning=None).combine_chunks()
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
