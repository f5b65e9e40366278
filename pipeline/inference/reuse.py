"""Results of texts that were scored before, copied from the files they stand in instead of computed again.

A text is known by a 128-bit hash of a row's inputs, as they are. What was stored under the same fingerprint is what a
new run would compute but for the rounding of other batches, so any sound file will do, published or not. Whatever
cannot be read is computed: reuse decides what a shard costs, and never whether a row is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.reader import input_column
from pipeline.inference.source import TextSource
from pipeline.output.texts import HASH_BYTES, HashArray, HashedFile, IntArray, TextIndex, TextStore, group_equal
from pipeline.schema import FINGERPRINT_FOOTER
from pipeline.storage import retrying
from pipeline.uris import join_uri

ONE_ROW_IN = 128
"""A stored row group is read if at least one row in so many of it is wanted: reading 32,768 rows takes about as long as
computing some hundred."""


@dataclass(frozen=True)
class ReuseSource:
    """What a worker may copy from: files whose texts are known, the newest first. Small and picklable."""

    texts: TextStore
    files: tuple[HashedFile, ...]


@dataclass(frozen=True)
class Answers:
    """What the bundles say about some rows.

    Attributes:
        columns: Everything they add to the rows, under the names of the table [R].
        finite: Whether a row's numbers are sound [R].
        num_tokens: Tokens that were computed.
        num_padded_tokens: The same with padding.
        num_reused_rows: Rows whose answer was copied.
    """

    columns: pa.Table
    finite: npt.NDArray[np.bool_]
    num_tokens: int
    num_padded_tokens: int
    num_reused_rows: int = 0


@dataclass(frozen=True)
class StoredResults:
    """Results that were found.

    Attributes:
        rows: Which of the asked rows they are of [K].
        columns: The results [K].
    """

    rows: IntArray
    columns: pa.Table


class ResultReuse:
    """One worker's way to stored results; the index is loaded when it is first asked, and kept."""

    def __init__(self, source: ReuseSource, schema: pa.Schema) -> None:
        self.texts = source.texts
        self._files = source.files
        self._schema = schema

    def answer(self, hashes: HashArray, compute: Callable[[IntArray], Answers]) -> Answers:
        """Answers for rows by their texts: stored ones, and of equal texts one computed for all.

        Args:
            hashes: The rows' texts [R].
            compute: Answers for some of the rows, by number. They keep their order, so that where nothing is shared
                all are computed in the batches of a run without reuse.
        """
        firsts, groups = group_equal(hashes)
        stored = self.find(hashes[firsts])
        num_stored = len(stored.rows)
        left = np.setdiff1d(np.arange(len(firsts)), stored.rows)
        left = left[np.argsort(firsts[left])]
        computed = compute(firsts[left])
        if len(left) == len(hashes):
            return computed
        places = np.empty(len(firsts), np.int64)
        places[stored.rows] = np.arange(num_stored)
        places[left] = num_stored + np.arange(len(left))
        rows = places[groups]
        return Answers(
            pa.concat_tables([stored.columns, computed.columns]).take(pa.array(rows)),
            np.concatenate([np.ones(num_stored, np.bool_), computed.finite])[rows],
            computed.num_tokens,
            computed.num_padded_tokens,
            len(hashes) - len(left),
        )

    def find(self, hashes: HashArray) -> StoredResults:
        """Stored results of some texts."""
        positions = self._index.find(hashes)
        asked = np.flatnonzero(positions >= 0)
        rows, tables = [np.empty(0, np.int64)], [self._schema.empty_table()]
        for file, which, file_rows in self._index.by_file(positions[asked]):
            for some, table in self._read(file, file_rows):
                rows.append(asked[which[some]])
                tables.append(table)
        return StoredResults(np.concatenate(rows), pa.concat_tables(tables))

    @cached_property
    def _index(self) -> TextIndex:
        return self.texts.load_index(self._files)

    def _read(self, file: HashedFile, rows: IntArray) -> list[tuple[IntArray, pa.Table]]:
        """(which of `rows`, their results), from each row group that is worth it; nothing if the file is no good."""
        uri = join_uri(self.texts.table_uri, file.path)
        try:
            return retrying(lambda: self._read_groups(uri, file, rows), f"read {uri}")
        except (pa.ArrowException, OSError):  # gone, or broken; a store that refuses or fails is told otherwise
            return []

    def _read_groups(self, uri: str, file: HashedFile, rows: IntArray) -> list[tuple[IntArray, pa.Table]]:
        filesystem, path = self.texts.storage.open_arrow(uri)
        found = []
        with pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True) as parquet:
            metadata = parquet.metadata
            footer = (metadata.metadata or {}).get(FINGERPRINT_FOOTER.encode(), b"").decode()
            if footer != self.texts.fingerprint or metadata.num_rows != file.num_rows:
                return []
            sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.searchsorted(ends, rows, side="right")
            for index in np.unique(groups):
                some = np.flatnonzero(groups == index)
                if len(some) * ONE_ROW_IN >= sizes[index]:
                    table = parquet.read_row_group(index, columns=self._schema.names)
                    wanted = pa.array(rows[some] - (ends[index] - sizes[index]))
                    found.append((some, table.select(self._schema.names).take(wanted).cast(self._schema)))
        return found


def compute_once(groups: tuple[IntArray, IntArray], compute: Callable[[IntArray], Answers]) -> Answers:
    """Answers for rows of which some are equal: one computed for all that are.

    Args:
        groups: As `group_texts` gives them.
        compute: Answers for some of the rows, by number, in their order.
    """
    firsts, group_of = groups
    order = np.argsort(firsts)
    computed = compute(firsts[order])
    places = np.empty(len(firsts), np.int64)
    places[order] = np.arange(len(firsts))
    rows = places[group_of]
    return Answers(
        computed.columns.take(pa.array(rows)),
        computed.finite[rows],
        computed.num_tokens,
        computed.num_padded_tokens,
        len(group_of) - len(firsts),
    )


def group_texts(rows: pa.Table, texts: Mapping[str, TextSource]) -> tuple[IntArray, IntArray]:
    """Which rows the bundles read alike: (a row of each group, for each row [R] its group).

    Args:
        rows: Rows as `read_shard` returns them, without unusable texts [R].
        texts: What each bundle reads of them.
    """
    codes: IntArray = np.zeros(rows.num_rows, np.int64)
    firsts: IntArray = np.zeros(min(rows.num_rows, 1), np.int64)
    for name in dict.fromkeys(column for source in texts.values() for column in source.columns):
        column = rows[input_column(name)].combine_chunks().dictionary_encode()
        both = codes * max(len(column.dictionary), 1) + column.indices.to_numpy(zero_copy_only=False)
        _, firsts, codes = np.unique(both, return_index=True, return_inverse=True)
    return firsts, codes


def hash_texts(rows: pa.Table, texts: Mapping[str, TextSource]) -> HashArray:
    """Hash what every bundle reads of a row, and how.

    Args:
        rows: Rows as `read_shard` returns them, without unusable texts [R].
        texts: What each bundle reads of them.
    """
    how = json.dumps({name: asdict(source) for name, source in texts.items()}, sort_keys=True).encode()
    begun = hashlib.blake2b(hashlib.sha256(how).digest(), digest_size=HASH_BYTES)
    names = dict.fromkeys(column for source in texts.values() for column in source.columns)
    columns = [_text_bytes(rows[input_column(name)]) for name in names]
    digests = bytearray()
    for row in range(rows.num_rows):
        digest = begun.copy()
        for offsets, data in columns:
            start, stop = offsets[row], offsets[row + 1]
            digest.update((stop - start).to_bytes(8, "big"))  # ("ab", "c") is not ("a", "bc")
            digest.update(data[start:stop])
        digests += digest.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64).reshape(-1, 2)


def _text_bytes(column: pa.ChunkedArray) -> tuple[list[int], memoryview]:
    """Where each text begins and ends, and the bytes of all."""
    array = column.combine_chunks()
    _, offsets, data = array.buffers()
    numbers: npt.NDArray[np.int64] = np.frombuffer(offsets, np.int64) if len(array) else np.zeros(1, np.int64)
    return numbers[array.offset : array.offset + len(array) + 1].tolist(), memoryview(data or b"")
