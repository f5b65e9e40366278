"""What the runs of a table wrote down about themselves, to be compared with what the table shows."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.ledger import SNAPSHOT
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

_THREADS = 16


@dataclass(frozen=True)
class Manifest:
    """One run's account.

    Attributes:
        uri: Where it stands.
        counts: What it says, by field.
    """

    uri: str
    counts: Mapping[str, Any]

    @property
    def version(self) -> int:
        """The table's version as the run left it."""
        return int(self.counts["table_version"])

    @property
    def run_date(self) -> str:
        """The night."""
        return str(self.counts["run_date"])

    @property
    def fingerprint(self) -> str:
        """Of the model and settings whose scores it counts."""
        return str(self.counts["fingerprint"])

    @property
    def is_snapshot(self) -> bool:
        """Whether it speaks of the whole table, and not of one night."""
        return self.counts.get("mode") == SNAPSHOT

    def kept_corpus(self, storage: Storage) -> frozenset[str] | None:
        """The files of the corpus, where the table keeps rows of files that are not among them; else None."""
        output = self.counts.get("spec", {}).get("output", {})
        if not self.is_snapshot or output.get("vanished") != "keep":
            return None
        return self.files(storage)

    def files(self, storage: Storage) -> frozenset[str] | None:
        """The corpus files that the run was about, if it wrote them down."""
        etags = self.etags(storage)
        return frozenset(etags) if etags is not None else None

    def etags(self, storage: Storage) -> dict[str, str] | None:
        """The same with the etags of the versions that were read."""
        table = self._beside("files", storage)
        if table is None:
            return None
        return dict(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))

    def shards(self, storage: Storage) -> pa.Table | None:
        """What each shard of the run took, if it wrote that down."""
        return self._beside("shards", storage)

    def workers(self, storage: Storage) -> pa.Table | None:
        """What each worker of the run did, if it wrote that down."""
        return self._beside("workers", storage)

    def _beside(self, what: str, storage: Storage) -> pa.Table | None:
        content = storage.read_bytes(f"{self.uri.removesuffix('.json')}.{what}.parquet")
        return pq.read_table(io.BytesIO(content)) if content is not None else None


def was_empty(manifests: Sequence[Manifest]) -> bool:
    """Whether a night of these manifests stands without files: nothing was new or changed, or all rows are quarantined.

    A night whose files somebody took out of the table is none.
    """
    return bool(manifests) and (manifests[-1].is_snapshot or manifests[-1].counts.get("num_scored_rows") == 0)


def nights_with_manifests(table_uri: str, storage: Storage) -> list[str]:
    """The nights of which runs wrote manifests, the newest first; from their names alone."""
    found = storage.list_objects(join_uri(table_uri, "_manifests"))
    folders = {item.uri.rsplit("/", 2)[-2] for item in found if item.uri.endswith(".json")}
    return sorted((folder.removeprefix(f"{RUN_DATE}=") for folder in folders), reverse=True)


def read_manifests(table_uri: str, storage: Storage, run_date: str | None = None) -> list[Manifest]:
    """A table's manifests, or one night's, in the order of the versions they speak of, then of their writing."""
    folder = join_uri(table_uri, "_manifests", *([f"{RUN_DATE}={run_date}"] if run_date else []))
    found = [item for item in storage.list_objects(folder) if item.uri.endswith(".json")]
    contents = map_threads(lambda item: storage.read_bytes(item.uri), found, _THREADS)
    manifests = [
        (Manifest(item.uri, json.loads(content)), item.modified_s or 0.0)
        for item, content in zip(found, contents, strict=True)
        if content is not None
    ]
    ordered = sorted(manifests, key=lambda entry: (entry[0].version, entry[1], entry[0].uri))
    return [manifest for manifest, _ in ordered]
