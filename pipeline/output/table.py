"""The one commit: a night's files appear in the Delta table together, or not at all.

A publisher reads which files are live in its night, compares them with the files the ledger names, and commits
the difference: adds for new files, removes (by name) for files of changed or vanished shards, and an app
transaction that makes racing publishers of one night conflict. Whoever loses re-reads and finds nothing left to
do. A commit whose answer was lost is settled the same way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import CommitConflictError, CorpusError, OutputTakenError, TransientStorageError, first_line
from pipeline.output.columns import check_types, columns_of, new_columns
from pipeline.output.compacted import CompactedFile, read_compacted, stand_in
from pipeline.output.ledger import SNAPSHOT
from pipeline.schema import CURRENT, PROFILES, QUARANTINE, REPORTS, RUN_DATE
from pipeline.storage import NUM_REQUEST_ATTEMPTS, Storage, classify_error, retrying
from pipeline.tracing import span

_NUM_ATTEMPTS = 6
_APP_ID = "bertmill:{}"  # of a night's commits, or of a snapshot's
_URL_MARKS = {"%": "an escape", "#": "the end of it", "?": "the end of it", "\\": "'/'"}
_OWN_NAMES = ("_delta_log", "_bertmill", "_manifests", REPORTS, PROFILES, QUARANTINE, CURRENT, f"{RUN_DATE}=")


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that is to be live: path relative to the table."""

    path: str
    size_bytes: int
    num_rows: int


@dataclass(frozen=True)
class Night:
    """What one night's partition shall hold; or, of a snapshot, the whole table after that night."""

    run_date: str
    files: tuple[DataFile, ...]
    schema: pa.Schema
    facts: Mapping[str, str]
    is_snapshot: bool = False

    @property
    def scope(self) -> str | None:
        """The night whose files are compared with these; None for all nights'."""
        return None if self.is_snapshot else self.run_date


@dataclass(frozen=True)
class Published:
    """The table after publishing: its version, and whether this call changed anything."""

    version: int
    num_added_files: int
    num_removed_files: int

    @property
    def changed(self) -> bool:
        """Whether a commit was made."""
        return self.num_added_files + self.num_removed_files > 0


def open_table(uri: str, storage: Storage) -> DeltaTable | None:
    """The Delta table at a URI, or None.

    Raises:
        CorpusError: there is one, and its log cannot be read.
    """
    try:
        return retrying(lambda: DeltaTable(uri, storage_options=_options(uri, storage)), f"open the table {uri}")
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise CorpusError(
            f"{uri}: a Delta table whose log cannot be read: {first_line(error)}",
            "restore its `_delta_log`, or name another place",
        ) from None


def _options(uri: str, storage: Storage) -> dict[str, str]:
    """As many attempts at a request as every other client makes, not ten inside of ours."""
    options = storage.delta_options(uri)
    return {**options, "max_retries": str(NUM_REQUEST_ATTEMPTS - 1)} if options else {}


def holds_snapshot(table: DeltaTable) -> bool:
    """Whether a snapshot was ever published in the table, as its log says."""
    return table.transaction_version(_APP_ID.format(SNAPSHOT)) is not None


def live_files(table: DeltaTable, run_date: str | None = None) -> dict[str, DataFile]:
    """Path -> file for every live file, or for those of one night."""
    actions = pa.table(table.get_add_actions(flatten=True))
    files = {}
    for row in actions.to_pylist():
        if run_date is None or str(row[f"partition.{RUN_DATE}"]) == run_date:
            files[row["path"]] = DataFile(row["path"], row["size_bytes"], row["num_records"] or 0)
    return files


def shows_files(
    table: DeltaTable | None, uri: str, paths: Collection[str], run_date: str | None, storage: Storage
) -> bool:
    """Whether a table, or one night of it, shows exactly these files; a table that is not there shows none."""
    if table is None:
        return not paths
    live = live_files(table, run_date)
    return live.keys() == stand_in(paths, live, read_notes(uri, table, run_date, storage))


def check_table_target(uri: str, schema: pa.Schema, storage: Storage) -> list[pa.Field]:
    """Make sure a night can be published at a URI.

    Returns:
        The columns that publishing it adds to a table that is there.

    Raises:
        OutputTakenError: something else is there, or a table with other columns.
    """
    for mark, meaning in _URL_MARKS.items():
        if mark in uri:
            raise OutputTakenError(
                f"{uri}: Delta reads {mark!r} in a path as {meaning}", f"choose an `output.uri` without {mark!r}"
            )
    check_types(uri, schema)
    table = open_table(uri, storage)
    if table is not None:
        return new_columns(columns_of(table), schema, uri)
    strange = [
        item.uri
        for item in storage.list_objects(uri)
        if not item.uri.removeprefix(uri).strip("/").startswith(_OWN_NAMES)
    ]
    if strange:
        raise OutputTakenError(
            f"{uri}: already holds something that is not a bertmill table (first: {strange[0]})",
            "choose another `output.uri`, or empty this one",
        )
    return []


@span("commit")
def publish_night(uri: str, night: Night, storage: Storage) -> Published:
    """Make a night's partition hold exactly the given files, in one commit.

    Raises:
        CommitConflictError: other publishers kept winning with other content.
        OutputTakenError: the table has other columns.
    """
    failure: Exception | None = None
    for attempt in range(_NUM_ATTEMPTS):
        if attempt:
            time.sleep(0.1 * 2**attempt)
        try:
            table = open_table(uri, storage) or _create(uri, night, storage)
            _add_columns(table, new_columns(columns_of(table), night.schema, uri))
            published, actions = _difference(table, night, read_notes(uri, table, night.scope, storage))
            if not published.changed:
                return published
            commit_actions(table, actions, night)
            return Published(table.version(), published.num_added_files, published.num_removed_files)
        except (DeltaError, OSError, TransientStorageError) as error:
            failure = _failure_that_may_pass(error, uri)
    if isinstance(failure, TransientStorageError):
        raise failure
    raise CommitConflictError(
        f"{uri}: night {night.run_date} could not be committed in {_NUM_ATTEMPTS} attempts: {failure}",
        "another publisher of this night is active; run the same command again when it has ended",
    )


def _failure_that_may_pass(error: Exception, uri: str) -> Exception:
    """Lost a race, or lost the answer: the table itself tells, so it is read again. Anything else is raised.

    deltalake reports a store that fails as OSError, and one that fails while it commits as DeltaError.
    """
    if isinstance(error, TransientStorageError):
        return error
    known = classify_error(error, f"publish to {uri}")
    if isinstance(known, TransientStorageError):
        return known
    if isinstance(error, CommitFailedError) or "already exists" in str(error).lower():
        return error
    if known is None and isinstance(error, DeltaError):
        known = OutputTakenError(
            f"{uri}: cannot publish: {first_line(error)}",
            "mend the table or write to another `output.uri`; there, finished shards are scored again",
        )
    raise known or error from None


def _create(uri: str, night: Night, storage: Storage) -> DeltaTable:
    return DeltaTable.create(
        uri,
        schema=night.schema,
        mode="error",
        partition_by=[RUN_DATE],
        storage_options=_options(uri, storage),
    )


def _add_columns(table: DeltaTable, fields: Sequence[pa.Field]) -> None:
    """In a version of its own, which shows no other row than the one before."""
    if fields:
        table.alter.add_columns(list(DeltaSchema.from_arrow(pa.schema(fields)).fields))


def _difference(
    table: DeltaTable, night: Night, notes: Sequence[CompactedFile]
) -> tuple[Published, list[AddAction | RemoveAction]]:
    live = live_files(table, night.scope)
    files = {file.path: file for file in night.files}
    shown = stand_in(files, live, notes)
    now_ms = int(time.time() * 1000)
    adds = [
        AddAction(
            path, file.size_bytes, {RUN_DATE: night_of(path)}, now_ms, True, json.dumps({"numRecords": file.num_rows})
        )
        for path, file in files.items()
        if path in shown and path not in live
    ]
    removes = [
        RemoveAction(path, True, now_ms, size=file.size_bytes, partition_values={RUN_DATE: night_of(path)})
        for path, file in live.items()
        if path not in shown
    ]
    return Published(table.version(), len(adds), len(removes)), [*removes, *adds]


def read_notes(uri: str, table: DeltaTable, run_date: str | None, storage: Storage) -> list[CompactedFile]:
    """Notes on the compacted files of one night, or of every night that has live files."""
    nights = [run_date] if run_date else sorted({night_of(path) for path in live_files(table)})
    return [note for night in nights for note in read_compacted(uri, night, storage)]


def night_of(path: str) -> str:
    """The night whose folder a path begins with; empty for a path of another kind."""
    first = path.split("/", 1)[0]
    return first.removeprefix(f"{RUN_DATE}=") if first.startswith(f"{RUN_DATE}=") else ""


def commit_actions(table: DeltaTable, actions: Sequence[AddAction | RemoveAction], night: Night) -> None:
    """One commit under the night's app transaction: of all who commit to it from one version, one succeeds.

    Raises:
        DeltaError: another did, or the store failed.
    """
    app_id = _APP_ID.format(night.scope or SNAPSHOT)
    transaction = Transaction(app_id=app_id, version=(table.transaction_version(app_id) or 0) + 1)
    table.create_write_transaction(
        list(actions),
        mode="append",
        schema=night.schema,
        partition_by=[RUN_DATE],
        commit_properties=CommitProperties(
            custom_metadata={f"bertmill.{key}": value for key, value in night.facts.items()},
            app_transactions=[transaction],
        ),
    )
    table.update_incremental()
