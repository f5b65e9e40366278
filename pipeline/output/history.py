"""What a published table holds, night by night and version by version, from its log alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.output.log import read_commits, require_night, require_table
from pipeline.output.manifests import nights_with_manifests, read_manifests, was_empty
from pipeline.output.table import DataFile, holds_snapshot, live_files, night_of, open_table
from pipeline.schema import QUARANTINE
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri


@dataclass(frozen=True)
class NightSummary:
    """One night of a table; `version` and models come from the commits still in the log."""

    run_date: str
    num_rows: int
    num_files: int
    size_bytes: int
    num_quarantined_rows: int
    version: int | None
    model_versions: tuple[str, ...]


@dataclass(frozen=True)
class VersionSummary:
    """One version of a table.

    Row counts are None where a removed file was added by a commit that the log no longer holds.
    """

    version: int
    committed_s: float
    operation: str
    run_date: str
    run_id: str
    model_version: str
    num_added_files: int
    num_removed_files: int
    num_added_rows: int
    num_removed_rows: int | None


@dataclass(frozen=True)
class LiveFile:
    """A Parquet file that holds published rows: its absolute URI, night, size and rows."""

    uri: str
    run_date: str
    size_bytes: int
    num_rows: int


def read_nights(uri: str, storage: Storage) -> list[NightSummary]:
    """Every night of a table, by date.

    Raises:
        CorpusError: there is no table at the URI.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    quarantine = open_table(join_uri(uri, QUARANTINE), storage)
    bad = _by_night(live_files(quarantine).values()) if quarantine is not None else {}
    versions: dict[str, int] = {}
    models: dict[str, str] = {}
    live = _by_night(live_files(table).values())
    empty = [] if holds_snapshot(table) else _empty_nights(uri, live, storage)
    nights: dict[str, list[DataFile]] = {night: [] for night in empty} | live
    for commit in read_commits(uri, storage):  # of a night's several, the last one's word stands
        night = commit.facts.get("run_date")
        if night:
            versions[night], models[night] = commit.version, commit.facts.get("model_version", "")
    return [
        NightSummary(
            night,
            sum(file.num_rows for file in files),
            len(files),
            sum(file.size_bytes for file in files),
            sum(file.num_rows for file in bad.get(night, [])),
            versions.get(night),
            tuple(filter(None, [models.get(night)])),
        )
        for night, files in sorted(nights.items())
    ]


def read_versions(uri: str, storage: Storage) -> list[VersionSummary]:
    """Every version whose commit is still in the log, the newest first.

    Raises:
        CorpusError: there is no table at the URI.
    """
    uri = canonical_uri(uri)
    require_table(uri, storage)
    commits = read_commits(uri, storage)
    rows = _rows_at(uri, commits[0].version, storage) if commits and commits[0].version else {}
    summaries = []
    for commit in commits:
        removed = [rows.get(path) for path in commit.removed]
        known = [number for number in removed if number is not None]
        rows.update({path: file.num_rows for path, file in commit.added.items()})
        summaries.append(
            VersionSummary(
                commit.version,
                commit.committed_s,
                commit.operation,
                commit.facts.get("run_date", ""),
                commit.facts.get("run_id", ""),
                commit.facts.get("model_version", ""),
                len(commit.added),
                len(removed),
                sum(file.num_rows for file in commit.added.values()),
                sum(known) if len(known) == len(removed) else None,
            )
        )
    return summaries[::-1]


def list_live_files(uri: str, storage: Storage, run_date: str | None = None) -> list[LiveFile]:
    """The files that hold a table's rows now, or one night's, by URI: for readers that do not know Delta.

    Raises:
        CorpusError: there is no table at the URI, or no such night in it.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    files = live_files(table) if run_date is None else require_night(table, uri, run_date, storage)
    return [
        LiveFile(join_uri(uri, path), night_of(path), file.size_bytes, file.num_rows)
        for path, file in sorted(files.items())
    ]


def table_columns(uri: str, storage: Storage) -> pa.Schema:
    """The columns of a table.

    Raises:
        CorpusError: there is no table at the URI.
    """
    return pa.schema(require_table(canonical_uri(uri), storage).schema().to_arrow())


def _empty_nights(uri: str, others: Collection[str], storage: Storage) -> list[str]:
    """Nights that were published without a row."""
    unseen = [night for night in nights_with_manifests(uri, storage) if night not in others]
    return [night for night in unseen if was_empty(read_manifests(uri, storage, night))]


def _by_night(files: Iterable[DataFile]) -> dict[str, list[DataFile]]:
    nights: dict[str, list[DataFile]] = defaultdict(list)
    for file in files:
        nights[night_of(file.path)].append(file)
    return nights


def _rows_at(uri: str, version: int, storage: Storage) -> dict[str, int | None]:
    """Rows of the files live in a version, from a checkpoint; nothing if none reaches so far back."""
    try:
        table = DeltaTable(uri, version=version, storage_options=storage.delta_options(uri))
    except DeltaError:
        return {}
    return {path: file.num_rows for path, file in live_files(table).items()}
