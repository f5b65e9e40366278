"""A memory of footers, kept beside the output: a file whose etag is known is not opened again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.reader import Columns, FileFooter, Survey, survey_files
from pipeline.corpus.shards import FileLayout, RowGroup
from pipeline.storage import Storage
from pipeline.uris import join_uri

_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("partition", pa.string()),
        ("group_rows", pa.list_(pa.int64())),
        ("group_bytes", pa.list_(pa.int64())),
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
        known = self._load()
        unknown = [file for file in files if _key(file) not in known]
        found = survey_files(unknown, self.columns, self.storage, skip_corrupt)
        footers = {footer.layout.file.uri: footer for footer in found.footers}
        footers.update({file.uri: _footer(file, *known[_key(file)]) for file in files if _key(file) in known})
        return Survey(tuple(footers[file.uri] for file in files if file.uri in footers), found.skipped)

    def save(self, footers: Iterable[FileFooter]) -> None:
        """Remember exactly these footers."""
        rows = [
            {
                "uri": footer.layout.file.uri,
                "etag": footer.layout.file.etag,
                "partition": repr(footer.layout.file.partition),
                "group_rows": [group.num_rows for group in footer.layout.row_groups],
                "group_bytes": [group.text_bytes for group in footer.layout.row_groups],
                "arrow_schema": footer.schema.serialize().to_pybytes(),
            }
            for footer in footers
        ]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
        self.storage.write_bytes(self._uri, sink.getvalue())

    @property
    def _uri(self) -> str:
        key = hashlib.sha256(repr((self.columns.inputs, self.columns.kept)).encode()).hexdigest()
        return join_uri(self.root, f"{key[:32]}.parquet")

    def _load(self) -> dict[tuple[str, str, str], tuple[tuple[RowGroup, ...], pa.Schema]]:
        content = self.storage.read_bytes(self._uri)
        if content is None:
            return {}
        schemas: dict[bytes, pa.Schema] = {}
        known = {}
        try:
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
        except (pa.ArrowException, OSError):
            return {}  # a memory that cannot be read is none; the next save replaces it
        for row in rows:
            packed = row["arrow_schema"]
            if packed not in schemas:
                schemas[packed] = pa.ipc.read_schema(pa.py_buffer(packed))
            groups = tuple(map(RowGroup, row["group_rows"], row["group_bytes"]))
            known[row["uri"], row["etag"], row["partition"]] = (groups, schemas[packed])
        return known


def _key(file: CorpusFile) -> tuple[str, str, str]:
    return file.uri, file.etag, repr(file.partition)


def _footer(file: CorpusFile, groups: tuple[RowGroup, ...], schema: pa.Schema) -> FileFooter:
    return FileFooter(FileLayout(file, groups), schema)
