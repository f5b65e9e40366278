"""Labelled Parquet -> checked labels and a token cache: each text is tokenised once, for every later run too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Uris
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import (
    REASON,
    Columns,
    ReadOptions,
    input_column,
    kept_schema,
    read_footers,
    read_shard,
)
from pipeline.corpus.shards import Shard, ShardSize, cut_shards
from pipeline.encoder.attention import set_threads
from pipeline.encoder.model import load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer, TokenRows
from pipeline.errors import CorpusError, Problem, SpecError
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.tasks.base import TargetArray, Task
from pipeline.uris import join_uri

_SHARD_SIZE = ShardSize(rows=65_536, bytes=64 * 2**20)
_CACHE_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("truncated", pa.bool_()), ("target", pa.string())])
_MAX_NAMED = 10


@dataclass(frozen=True)
class LabelledSet:
    """One split: its shards, how its columns are read, and the labels found in it."""

    shards: tuple[Shard, ...]
    columns: Columns
    options: ReadOptions
    labels: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Rows, usable or not."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names and the columns read."""
        parts = [
            sorted(shard.name for shard in self.shards),
            list(self.columns.inputs),
            list(self.columns.kept),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class TokenCacheJob:
    """What a tokenising worker is told."""

    tokenizer_source: str
    max_length: int
    columns: Columns
    options: ReadOptions
    cache_uri: str
    num_threads: int
    storage: Storage

    def build(self) -> TokenCacheWriter:
        """Load the tokenizer in the worker's own process."""
        set_threads(self.num_threads)
        return TokenCacheWriter(self, TextTokenizer(load_tokenizer(self.tokenizer_source), self.max_length))


class TokenCacheWriter:
    """Tokenises shards, one file each; doing one twice writes the same file again."""

    def __init__(self, job: TokenCacheJob, tokenizer: TextTokenizer) -> None:
        self._job = job
        self._tokenizer = tokenizer

    def process(self, shard: Shard) -> pa.Table:
        """Tokenise a shard's usable rows and write them.

        Returns:
            One row: how many rows were read and how many tokens kept.
        """
        job = self._job
        rows = read_shard(shard, job.columns, job.options, job.storage)
        (target,) = job.columns.kept
        good = rows.filter(pc.and_(pc.is_null(rows[REASON]), pc.is_valid(rows[target])))
        tokens = self._tokenizer.encode(good[input_column(job.columns.inputs[0])])
        ids = pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), pa.array(tokens.ids, pa.int32()))
        table = pa.table([ids, pa.array(tokens.truncated), good[target].cast(pa.string())], schema=_CACHE_SCHEMA)
        write_parquet(table, cache_file(job.cache_uri, shard), {"bertmill.shard": shard.name}, job.storage)
        return pa.table({"num_rows": [rows.num_rows], "num_tokens": [len(tokens.ids)]})


@dataclass(frozen=True)
class TokenData:
    """A split in memory: ragged token ids and encoded targets, in shard order."""

    rows: TokenRows
    targets: TargetArray

    def __len__(self) -> int:
        return len(self.rows)


def open_split(uris: Uris, task: Task, columns: Columns, storage: Storage) -> LabelledSet:
    """List a split, check its files and columns, and read its distinct labels (not its text).

    Raises:
        CorpusError: a path, file or column is not there, or there are no rows.
    """
    footers = read_footers(list_corpus(uris, storage), columns, storage)
    shards = cut_shards((footer.layout for footer in footers), _SHARD_SIZE)
    if not shards:
        raise CorpusError(f"{', '.join(uris)}: no rows in {len(footers)} files", "labelled rows are needed")
    options = ReadOptions(kept_schema(footers, columns.kept), quarantine_blank=True)
    labels = task.find_labels(_read_targets([footer.layout.file.uri for footer in footers], columns, storage))
    return LabelledSet(tuple(shards), columns, options, labels)


def check_labels(train: LabelledSet, validation: LabelledSet | None, source: str) -> None:
    """Labels make sense: at least two in training, and none in validation that training never had.

    Raises:
        SpecError: naming the labels.
    """
    column = train.columns.kept[0]
    problems = []
    if len(train.labels) < 2:
        found = ", ".join(train.labels) or "none"
        problems.append(Problem("data.train", f"column {column!r} holds the labels: {found}", "two labels or more"))
    unknown = sorted(set(validation.labels) - set(train.labels)) if validation else []
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:_MAX_NAMED])
        known = ", ".join(train.labels[:_MAX_NAMED])
        remedy = "add training rows of those labels, or take those rows out of validation"
        problems.append(Problem("data.validation", f"labels never trained: {named}", f"some of: {known}", remedy))
    if problems:
        raise SpecError(source, tuple(problems))


def cache_file(cache_uri: str, shard: Shard) -> str:
    """The token cache's file for a shard."""
    return join_uri(cache_uri, f"{shard.name}.parquet")


def missing_shards(split: LabelledSet, cache_uri: str, storage: Storage) -> list[Shard]:
    """Shards that the token cache does not hold yet."""
    there = {item.uri for item in storage.list_objects(cache_uri)}
    return [shard for shard in split.shards if cache_file(cache_uri, shard) not in there]


def check_usable(split: LabelledSet, cache_uri: str, max_bad_fraction: float, storage: Storage) -> None:
    """Compare the cache's rows with the split's: the difference had no usable text or no label.

    Raises:
        CorpusError: more of them than allowed.
    """
    num_usable = 0
    for shard in split.shards:
        filesystem, path = storage.open_arrow(cache_file(cache_uri, shard))
        num_usable += pq.read_metadata(path, filesystem=filesystem).num_rows
    num_bad = split.num_rows - num_usable
    if num_bad > max_bad_fraction * split.num_rows:
        raise CorpusError(
            f"{split.shards[0].pieces[0].file.uri}: {num_bad} of {split.num_rows} labelled rows of this split have no "
            f"usable text or label, more than data.max_bad_fraction {max_bad_fraction}",
            "mend the data, or raise data.max_bad_fraction",
        )


def load_tokens(files: Iterable[str], task: Task, labels: Sequence[str], storage: Storage) -> TokenData:
    """Read cache files into memory, in the order given; a row with an unknown label gets the ignored target."""
    ids: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
    lengths: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    truncated: list[npt.NDArray[np.bool_]] = [np.zeros(0, np.bool_)]
    targets: list[TargetArray] = [np.zeros(0, np.int64)]
    for uri in files:
        filesystem, path = storage.open_arrow(uri)
        table = pq.read_table(path, filesystem=filesystem)
        for chunk in table["ids"].chunks:
            ids.append(chunk.flatten().to_numpy())
            lengths.append(chunk.value_lengths().to_numpy().astype(np.int64))
        truncated.append(table["truncated"].to_numpy())
        targets.append(task.encode_targets(table["target"], labels))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    rows = TokenRows(np.concatenate(ids), offsets, np.concatenate(truncated))
    return TokenData(rows, np.concatenate(targets))


def _read_targets(uris: Sequence[str], columns: Columns, storage: Storage) -> pa.ChunkedArray:
    """The distinct targets of each file, one column read."""
    (target,) = columns.kept
    chunks: list[pa.Array] = []
    for uri in uris:
        filesystem, path = storage.open_arrow(uri)
        column = pq.read_table(path, filesystem=filesystem, columns=[target], partitioning=None)[target]
        distinct = pc.unique(column)
        chunks.append(distinct.dictionary_decode() if pa.types.is_dictionary(distinct.type) else distinct)
    if len({chunk.type for chunk in chunks}) > 1:
        chunks = [chunk.cast(pa.string()) for chunk in chunks]
    return pa.chunked_array(chunks)
