"""A memory of footers, kept beside the output: a file whose etag is known is not opened again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.reader import Columns, FileFooter, Survey, survey_files
from pipeline.corpus.shards import FileLayout, RowGroup
from pipeline.storage import Storage
from pipeline.uris import join_uri

_BATCH_FILES = 16_384  # files at a time on their way in and out: Python objects of all would be a peak of their own
_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("partition", pa.string()),
        ("group_rows", pa.list_(pa.int64())),
        # was `group_bytes`, of the inputs alone: a memory without this column is none, so the two are never mixed
        ("bytes_read", pa.list_(pa.int64())),
        ("arrow_schema", pa.dictionary(pa.int32(), pa.binary())),
    ]
)


@dataclass(frozen=True)
class LayoutCache:
    """Footers of one corpus as seen through one set of columns.

    Args:
        root: The table's folder for such caches.
        columns: Columns the footers were checked for; another set is another cache.
        storage: The store.
    """

    root: str
    columns: Columns
    storage: Storage

    def survey(self, files: Sequence[CorpusFile], skip_corrupt: bool = False) -> Survey:
        """Footers of all files, in their order, opening only those not remembered; skipped ones never are.

        Raises:
            CorpusError: a file that had to be opened cannot be used.
        """
        footers = self._recall(files)
        unknown = [file for file in files if file.uri not in footers]
        found = survey_files(unknown, self.columns, self.storage, skip_corrupt)
        footers.update({footer.layout.file.uri: footer for footer in found.footers})
        return Survey(tuple(footers[file.uri] for file in files if file.uri in footers), found.skipped)

    def save(self, footers: Iterable[FileFooter]) -> None:
        """Remember exactly these footers."""
        sink, remaining = io.BytesIO(), iter(footers)
        packed: dict[int, tuple[pa.Schema, bytes]] = {}
        with pq.ParquetWriter(sink, _SCHEMA, compression="zstd") as writer:
            while batch := list(islice(remaining, _BATCH_FILES)):
                writer.write_table(_as_table(batch, packed))
        self.storage.write_bytes(self._uri, sink.getvalue())

    @property
    def _uri(self) -> str:
        key = hashlib.sha256(repr((self.columns.inputs, self.columns.kept)).encode()).hexdigest()
        return join_uri(self.root, f"{key[:32]}.parquet")

    def _recall(self, files: Sequence[CorpusFile]) -> dict[str, FileFooter]:
        """URI -> footer of the files that are remembered; a file is itself by URI, etag and partition."""
        content = self.storage.read_bytes(self._uri)
        if content is None:
            return {}
        wanted = {file.uri: file for file in files}
        known: dict[str, FileFooter] = {}
        schemas: dict[bytes, pa.Schema] = {}
        try:
            for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches(_BATCH_FILES):
                known.update(_known_footers(batch, wanted, schemas))
        except (pa.ArrowException, OSError, KeyError):
            return {}  # a memory that cannot be read is none; the next save replaces it
        return known


def _as_table(footers: Sequence[FileFooter], packed: dict[int, tuple[pa.Schema, bytes]]) -> pa.Table:
    """Footers as rows of the cache; `packed` holds each schema's bytes, and the schema lest its id be used again."""
    for footer in footers:
        if id(footer.schema) not in packed:
            packed[id(footer.schema)] = (footer.schema, footer.schema.serialize().to_pybytes())
    files = [footer.layout.file for footer in footers]
    groups = [footer.layout.row_groups for footer in footers]
    columns = [
        [file.uri for file in files],
        [file.etag for file in files],
        [repr(file.partition) for file in files],
        [[group.num_rows for group in item] for item in groups],
        [[group.num_bytes for group in item] for item in groups],
        [packed[id(footer.schema)][1] for footer in footers],
    ]
    return pa.table([pa.array(values, known.type) for values, known in zip(columns, _SCHEMA, strict=True)], _SCHEMA)


def _known_footers(
    batch: pa.RecordBatch, wanted: Mapping[str, CorpusFile], schemas: dict[bytes, pa.Schema]
) -> Iterator[tuple[str, FileFooter]]:
    """Footers of one batch of the cache, for the files that are still as they were."""
    packed = batch["arrow_schema"].dictionary.to_pylist()
    for content in packed:
        if content not in schemas:
            schemas[content] = pa.ipc.read_schema(pa.py_buffer(content))
    names = ("uri", "etag", "partition", "group_rows", "bytes_read")
    columns = [batch[name].to_pylist() for name in names]
    for uri, etag, partition, rows, sizes, code in zip(
        *columns, batch["arrow_schema"].indices.to_pylist(), strict=True
    ):
        file = wanted.get(uri)
        if file is not None and file.etag == etag and repr(file.partition) == partition:
            yield file.uri, FileFooter(FileLayout(file, tuple(map(RowGroup, rows, sizes))), schemas[packed[code]])
