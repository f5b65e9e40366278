"""What a table shows of a night: the files of its partition, or of a snapshot the whole table as that night left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.errors import CorpusError, first_line
from pipeline.output.columns import columns_of
from pipeline.output.log import last_publication, last_version_like, require_night, require_table
from pipeline.output.manifests import Manifest, read_manifests
from pipeline.output.row_groups import united_columns
from pipeline.output.table import DataFile, holds_snapshot, live_files
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import join_uri


@dataclass(frozen=True)
class StandingNight:
    """A night as it stands in the table.

    Attributes:
        table: The table's URI.
        run_date: The night.
        table_id: Delta's own id of the table, which stays when it is copied elsewhere.
        version: The table's version that was read.
        schema: The table's columns.
        files: The files that hold the night's rows, by path.
    """

    table: str
    run_date: str
    table_id: str
    version: int
    schema: pa.Schema
    files: tuple[DataFile, ...]

    @property
    def num_rows(self) -> int:
        """As the table's log says."""
        return sum(file.num_rows for file in self.files)

    @property
    def names(self) -> list[list[str | int]]:
        """What tells this content of the night from any other: path, bytes and rows of each file."""
        return [[file.path, file.size_bytes, file.num_rows] for file in self.files]

    def columns(self, storage: Storage) -> pa.Schema:
        """The columns that any of its files has: of a snapshot, those of other files may have been added later.

        Raises:
            AccountingError: a file is gone or is not Parquet.
        """
        return united_columns(self.schema, [join_uri(self.table, file.path) for file in self.files], storage)

    def etags(self, storage: Storage) -> Mapping[str, str]:
        """What `read_etags` finds, in a manifest that is no newer than the version that was read."""
        manifests = read_manifests(self.table, storage, self.run_date)
        told = [manifest for manifest in manifests if manifest.version <= self.version]
        return read_etags(self.table, told[-1] if told else None, storage)


def read_night(uri: str, run_date: str, storage: Storage) -> StandingNight:
    """What the table shows of a night now.

    Args:
        uri: The table's URI, canonical.
        run_date: The night.
        storage: The store.

    Raises:
        CorpusError: there is no such table or night, or vacuum has removed files of an older snapshot.
    """
    table = require_table(uri, storage)
    version, files = _find_files(table, uri, run_date, storage)
    ordered = tuple(sorted(files.values(), key=lambda file: file.path))
    return StandingNight(uri, run_date, str(table.metadata().id), version, columns_of(table), ordered)


def read_etags(uri: str, manifest: Manifest | None, storage: Storage) -> Mapping[str, str]:
    """Corpus file -> etag of the version whose rows a night holds, as the manifest that speaks for the night tells.

    Nothing without one, nor from one that was written before the night was published last: its run was killed before it
    wrote another. Files whose rows a snapshot keeps though they are gone from the corpus are not among them.
    """
    if manifest is None:
        return {}
    if not manifest.is_snapshot and manifest.version < (last_publication(uri, storage, manifest.run_date) or 0):
        return {}
    return manifest.etags(storage) or {}


def _find_files(table: DeltaTable, uri: str, run_date: str, storage: Storage) -> tuple[int, Mapping[str, DataFile]]:
    if not holds_snapshot(table):
        return table.version(), require_night(table, uri, run_date, storage)
    manifests = read_manifests(uri, storage, run_date)
    if not manifests:
        raise CorpusError(
            f"{uri}: no manifest of night {run_date}",
            "a snapshot's nights are known by their manifests; `bertmill nightly` again writes one that is missing",
        )
    if not manifests[-1].is_snapshot:
        return table.version(), require_night(table, uri, run_date, storage)
    return find_snapshot_files(table, uri, manifests[-1], storage)


def find_snapshot_files(
    table: DeltaTable, uri: str, manifest: Manifest, storage: Storage
) -> tuple[int, Mapping[str, DataFile]]:
    """The newest version that has the rows as a run left them, and its files.

    Args:
        table: The table as it is now.
        uri: Its URI, canonical.
        manifest: The run's, of the whole table.
        storage: The store.

    Raises:
        CorpusError: the version can no longer be opened, or vacuum has removed files of it.
    """
    run_date, version = manifest.run_date, last_version_like(uri, manifest.version, storage)
    if version == table.version():
        return version, live_files(table)
    try:
        older = DeltaTable(uri, version=version, storage_options=storage.delta_options(uri))
    except DeltaError as error:
        raise CorpusError(
            f"{uri}: version {version}, which {RUN_DATE}={run_date} left, cannot be opened: {first_line(error)}",
            "Delta forgets versions after 30 days; take a later night",
        ) from None
    files = live_files(older)
    standing = {item.uri.removeprefix(uri).strip("/") for item in storage.list_objects(uri)}
    gone = sorted(files.keys() - standing)
    if gone:
        raise CorpusError(
            f"{uri}: {len(gone)} files of the snapshot that {RUN_DATE}={run_date} left are gone (first: {gone[0]})",
            "vacuum removes what is older than its retention; take a later night",
        )
    return version, files
