"""Rewrites a night's many small files into fewer larger ones, in one Delta commit.

Rows do not change; the commit says `dataChange: false`. A note (`compacted`) tells publishers which of the ledger's
files each new one stands for, so that a second run of the night finds it done. Readers of older versions still find
the parts, until `vacuum` removes them.

In memory: one row group of a part, and the one being written.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import AccountingError, CommitConflictError, TransientStorageError
from pipeline.output.compacted import CompactedFile, note_uri, read_compacted, write_compacted
from pipeline.output.log import COMPACTION, newest_commits, require_night, require_table
from pipeline.output.row_groups import read_file_schema, read_row_groups
from pipeline.output.table import DataFile, Night, commit_actions, live_files
from pipeline.output.texts import HashedFile, TextStore
from pipeline.output.writer import write_row_groups
from pipeline.schema import FINGERPRINT_FOOTER, RUN_DATE, RUN_ID_FOOTER, SOURCE_FOOTER
from pipeline.storage import Storage, classify_error, map_threads
from pipeline.uris import canonical_uri, join_uri

_NUM_ATTEMPTS = 3
_THREADS = 16
_FOOTER_PREFIX = b"bertmill."
_RUN_ID = RUN_ID_FOOTER.encode()


@dataclass(frozen=True)
class Compaction:
    """What compacting a night did; the version is the table's, new if anything was merged."""

    version: int
    num_files_before: int
    num_files_after: int
    num_merged_files: int
    size_bytes_before: int
    size_bytes_after: int


@dataclass(frozen=True)
class _Merged:
    """A new file, the live files whose rows it holds, and their fingerprint."""

    file: DataFile
    replaced: tuple[DataFile, ...]
    fingerprint: str


def compact_night(uri: str, run_date: str, target_bytes: int, storage: Storage) -> Compaction:
    """Merge the files of a night that fit together under a size.

    Raises:
        CorpusError: there is no such table or night.
        AccountingError: a file is not what the table's log says; nothing is changed.
        CommitConflictError: the night was published anew meanwhile; nothing is changed.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    live = require_night(table, uri, run_date, storage)
    before = sum(file.size_bytes for file in live.values())
    together = _by_source(uri, live.values(), storage)
    groups = [group for files in together for group in plan_groups(files, target_bytes)]
    if not groups:
        return Compaction(table.version(), len(live), len(live), 0, before, before)
    merged = _merge_all(uri, run_date, groups, storage)
    version = _publish(uri, run_date, merged, storage)
    num_merged = sum(len(item.replaced) for item in merged)
    saved = sum(sum(file.size_bytes for file in item.replaced) - item.file.size_bytes for item in merged)
    return Compaction(version, len(live), len(live) - num_merged + len(merged), num_merged, before, before - saved)


def plan_groups(files: Iterable[DataFile], target_bytes: int) -> list[tuple[DataFile, ...]]:
    """Which files to merge: first fit, the largest first; what fits with nothing else is left alone.

    No two resulting files would fit under the target together, so a second compaction has (nearly) nothing to do.
    """
    groups: list[list[DataFile]] = []
    sizes: list[int] = []
    for file in sorted(files, key=lambda file: (-file.size_bytes, file.path)):
        place = next((i for i, size in enumerate(sizes) if size + file.size_bytes <= target_bytes), None)
        if place is None:
            groups.append([file])
            sizes.append(file.size_bytes)
        else:
            groups[place].append(file)
            sizes[place] += file.size_bytes
    return [tuple(sorted(group, key=lambda file: file.path)) for group in groups if len(group) > 1]


def _by_source(uri: str, files: Iterable[DataFile], storage: Storage) -> list[list[DataFile]]:
    """Files that may be merged: those of one corpus file, in a snapshot that may have to keep or drop them by it."""
    found: dict[str | None, list[DataFile]] = {}
    ordered = list(files)
    footers = map_threads(lambda file: read_file_schema(join_uri(uri, file.path), storage), ordered, _THREADS)
    for file, footer in zip(ordered, footers, strict=True):
        found.setdefault((footer.metadata or {}).get(SOURCE_FOOTER.encode()), []).append(file)
    return list(found.values())


def _merge_all(uri: str, run_date: str, groups: Sequence[Sequence[DataFile]], storage: Storage) -> list[_Merged]:
    """Write the merged files and the notes on them; if one fails, none is left."""
    notes = {note.path: note for note in read_compacted(uri, run_date, storage)}
    merged: list[_Merged] = []
    try:
        for group in groups:
            merged.append(_merge(uri, run_date, group, storage))
            _join_texts(uri, merged[-1], storage)
            write_compacted(uri, run_date, _note_on(merged[-1], notes), storage)
    except AccountingError:
        _discard(uri, run_date, merged, storage)
        raise
    return merged


def _discard(uri: str, run_date: str, merged: Sequence[_Merged], storage: Storage) -> None:
    """Only for files that no commit can name any more; what is left behind otherwise, `vacuum` finds."""
    for item in merged:
        storage.delete(note_uri(uri, run_date, item.file.path))
        TextStore(uri, item.fingerprint, storage).delete(item.file.path)
        storage.delete(join_uri(uri, item.file.path))


def _merge(uri: str, run_date: str, group: Sequence[DataFile], storage: Storage) -> _Merged:
    footers = [read_file_schema(join_uri(uri, file.path), storage) for file in group]
    schema = footers[0].remove_metadata()
    different = [file.path for file, footer in zip(group, footers, strict=True) if footer.remove_metadata() != schema]
    if different:
        raise AccountingError(
            f"{join_uri(uri, different[0])}: has other columns than {group[0].path}",
            "`bertmill table verify` says which file is wrong; score the night again to replace it",
        )

    def read_tables() -> Iterator[pa.Table]:
        for file in group:
            yield from read_row_groups(join_uri(uri, file.path), storage)

    path = f"{RUN_DATE}={run_date}/compacted-{uuid.uuid4().hex}.parquet"
    written = write_row_groups(read_tables, schema.with_metadata(_joined_footer(footers)), join_uri(uri, path), storage)
    num_rows = sum(file.num_rows for file in group)
    if written.num_rows != num_rows:
        storage.delete(written.uri)
        raise AccountingError(
            f"night {run_date} of {uri}: {written.num_rows} rows read where the log says {num_rows}; nothing changed",
            "`bertmill table verify` says which file is wrong; score the night again to replace it",
        )
    fingerprint = (footers[0].metadata or {}).get(FINGERPRINT_FOOTER.encode(), b"").decode()
    return _Merged(DataFile(path, written.size_bytes, num_rows), tuple(group), fingerprint)


def _join_texts(uri: str, merged: _Merged, storage: Storage) -> None:
    """Where the hashes of all parts' texts are known, those of the new file: its rows are theirs, in order."""
    texts = TextStore(uri, merged.fingerprint, storage)
    found = [texts.read(HashedFile(file.path, file.num_rows)) for file in merged.replaced]
    known = [hashes for hashes in found if hashes is not None]
    if len(known) == len(found):
        texts.write(merged.file.path, np.concatenate(known))


def _joined_footer(footers: Sequence[pa.Schema]) -> dict[bytes, bytes]:
    """The first file's footer, with the ids of all runs."""
    first = {key: value for key, value in (footers[0].metadata or {}).items() if key.startswith(_FOOTER_PREFIX)}
    run_ids = sorted({(footer.metadata or {}).get(_RUN_ID, b"") for footer in footers} - {b""})
    return {**first, **({_RUN_ID: b",".join(run_ids)} if run_ids else {})}


def _note_on(merged: _Merged, notes: dict[str, CompactedFile]) -> CompactedFile:
    """Parts are always the ledger's own files: a compacted file that is compacted again hands its parts on."""
    parts: dict[str, int] = {}
    for file in merged.replaced:
        parts.update(notes[file.path].parts if file.path in notes else {file.path: file.size_bytes})
    return CompactedFile(merged.file.path, merged.file.size_bytes, parts)


def _publish(uri: str, run_date: str, merged: Sequence[_Merged], storage: Storage) -> int:
    """Swap the files in one commit, if every replaced one is still live.

    The app transaction is the publisher's, so that of a publisher and a compaction of one night only one wins.
    """
    wanted = {item.file.path for item in merged}
    replaced = [file for item in merged for file in item.replaced]
    failure: Exception | None = None
    for _ in range(_NUM_ATTEMPTS):
        table = require_table(uri, storage)
        live = live_files(table, run_date)
        if wanted <= live.keys():  # the answer to the last attempt was lost
            return int(table.version())
        if not all(file.path in live for file in replaced):
            _discard(uri, run_date, merged, storage)
            raise CommitConflictError(
                f"{uri}: night {run_date} was published anew while it was compacted; nothing changed",
                "run the same command again",
            )
        try:
            commit_actions(table, _actions(run_date, merged), _night_of(uri, table, run_date, storage))
            return int(table.version())
        except DeltaError as error:
            known = classify_error(error, f"publish to {uri}")
            if known is not None and not isinstance(known, TransientStorageError):
                raise known from None
            failure = error
    raise CommitConflictError(
        f"{uri}: night {run_date} could not be committed in {_NUM_ATTEMPTS} attempts: {failure}",
        "`bertmill table history` says whether it was; if not, run the same command again",
    )


def _actions(run_date: str, merged: Sequence[_Merged]) -> list[AddAction | RemoveAction]:
    partition, now_ms = {RUN_DATE: run_date}, int(time.time() * 1000)
    removes = [
        RemoveAction(file.path, False, now_ms, size=file.size_bytes, partition_values=partition)
        for item in merged
        for file in item.replaced
    ]
    adds = [
        AddAction(file.path, file.size_bytes, partition, now_ms, False, json.dumps({"numRecords": file.num_rows}))
        for file in (item.file for item in merged)
    ]
    return [*removes, *adds]


def _night_of(uri: str, table: DeltaTable, run_date: str, storage: Storage) -> Night:
    """The night as its last commit described it, and that this one only compacts it."""
    own = (commit.facts for commit in newest_commits(uri, storage) if commit.facts.get("run_date") == run_date)
    last: Mapping[str, str] = next(own, {})
    kept = {key: last[key] for key in ("fingerprint", "model_version") if key in last}
    facts = {"run_date": run_date, "run_id": f"{COMPACTION}{uuid.uuid4().hex[:8]}", **kept}
    return Night(run_date, (), pa.schema(table.schema().to_arrow()), facts)
