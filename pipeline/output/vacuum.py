"""Deletes the files of a table that nobody needs any more; safe to run while nights are scored and published.

What is read, in this order: the files, then the done-records, then the log. A file moves the same way (written, then
recorded, then committed), so whatever happens meanwhile it is seen at least as far on as it was when it was listed.

    _bertmill/forgotten/run_date=2026-11-23/FINGERPRINT.json    files whose done-records were dropped, until they go
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.errors import AccountingError
from pipeline.output.compacted import CompactedFile, note_uri, read_compacted, write_compacted
from pipeline.output.ledger import SNAPSHOT, Ledger
from pipeline.output.log import read_commits, require_table
from pipeline.output.table import live_files, open_table
from pipeline.output.texts import described_path
from pipeline.output.vacuum_plan import (
    ForgottenFolder,
    LedgerFolder,
    TableState,
    VacuumOptions,
    VacuumPlan,
    night_of_file,
    plan_vacuum,
)
from pipeline.schema import QUARANTINE, RUN_DATE
from pipeline.storage import Storage, StoredObject, map_threads
from pipeline.uris import canonical_uri, is_temporary, join_uri

_THREADS = 16
_CLOCK_SLACK_S = 86_400.0


@dataclass(frozen=True)
class VacuumReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        removed: (path, bytes, reason) of each file, by path.
        kept: Reason -> number of files.
        num_forgotten_records: Records dropped; the files they name go in a later vacuum.
    """

    removed: tuple[tuple[str, int, str], ...]
    kept: dict[str, int]
    num_forgotten_records: int

    @property
    def removed_bytes(self) -> int:
        """Size of all removed files."""
        return sum(size for _, size, _ in self.removed)


def vacuum_table(uri: str, options: VacuumOptions, storage: Storage) -> VacuumReport:
    """Delete what nobody needs in a table and its quarantine.

    Raises:
        CorpusError: there is no table at the URI.
        AccountingError: a done-record or note cannot be read; nothing is deleted.
    """
    uri = canonical_uri(uri)
    now_s = time.time()
    state = read_state(uri, storage, now_s - options.retention_s)
    plan = plan_vacuum(state, options, now_s)
    if not options.is_dry_run:
        _carry_out(uri, plan, storage)
    return VacuumReport(
        tuple((path, state.files[path].size_bytes, reason) for path, reason in sorted(plan.remove.items())),
        dict(Counter(plan.keep.values())),
        sum(len(folder.records) for folder in plan.forget),
    )


def read_state(uri: str, storage: Storage, cutoff_s: float) -> TableState:
    """Everything the plan needs; versions removed before `cutoff_s` do not matter."""
    require_table(uri, storage)
    files = _list_files(uri, storage)
    forgotten = _read_forgotten(uri, storage)
    compacted = _read_notes(uri, storage)
    live, removed_s = _read_log(uri, storage, cutoff_s)
    unnamed = (path for path in files if path not in live and removed_s.get(path, 0.0) < cutoff_s)
    open_nights = {night_of_file(path) for path in unnamed}
    ledgers = _read_ledgers(uri, storage, open_nights)
    live, removed_s = _read_log(uri, storage, cutoff_s)
    return TableState(files, live, removed_s, ledgers, compacted, forgotten)


def _list_files(uri: str, storage: Storage) -> dict[str, StoredObject]:
    """Parquet files in folders of nights, their texts' hashes, and what a killed writer left but for the log's."""
    files = {}
    for item in storage.list_objects(uri):
        path = item.uri.removeprefix(uri).strip("/")
        is_data = path.endswith(".parquet") and night_of_file(path)
        if is_data or described_path(path) or (is_temporary(path) and "_delta_log/" not in path):
            files[path] = item
    return files


def _read_log(uri: str, storage: Storage, cutoff_s: float) -> tuple[frozenset[str], dict[str, float]]:
    """Paths that are live, and when those that are not any more stopped to be, for the table and its quarantine."""
    live: set[str] = set()
    removed_s: dict[str, float] = {}
    for prefix in ("", f"{QUARANTINE}/"):
        root = join_uri(uri, QUARANTINE) if prefix else uri
        table = open_table(root, storage)
        if table is None:
            continue
        live |= {prefix + path for path in live_files(table)}
        for commit in read_commits(root, storage, cutoff_s - _CLOCK_SLACK_S):
            removed_s.update({prefix + path: moment_s for path, moment_s in commit.removed.items()})
            if commit.version > table.version():
                live |= {prefix + path for path in commit.added}
    return frozenset(live), removed_s


def _read_ledgers(uri: str, storage: Storage, nights: Iterable[str]) -> tuple[LedgerFolder, ...]:
    """Every folder of the ledger; the records themselves only for some nights."""
    root, wanted = join_uri(uri, "_bertmill", "ledger"), set(nights)
    found: dict[tuple[str, str], list[StoredObject]] = defaultdict(list)
    for item in storage.list_objects(root):
        parts = item.uri.removeprefix(root).strip("/").split("/")
        if len(parts) == 3 and parts[2].endswith(".json") and not parts[2].startswith("."):
            found[parts[0].removeprefix(f"{RUN_DATE}="), parts[1]].append(item)
    folders = []
    for (night, fingerprint), items in sorted(found.items()):
        moments = [item.modified_s for item in items if item.modified_s is not None]
        newest_s = max(moments) if len(moments) == len(items) else None
        is_wanted = night in wanted or night == SNAPSHOT
        names = [item.uri.rsplit("/", 1)[-1].removesuffix(".json") for item in items] if is_wanted else []
        records = Ledger(uri, night, fingerprint, storage, night == SNAPSHOT).read(names).values()
        folders.append(LedgerFolder(night, fingerprint, newest_s, tuple(records)))
    return tuple(folders)


def _read_notes(uri: str, storage: Storage) -> dict[str, tuple[CompactedFile, ...]]:
    root = join_uri(uri, "_bertmill", "compacted")
    names = {item.uri.removeprefix(root).strip("/").split("/")[0] for item in storage.list_objects(root)}
    nights = sorted(name.removeprefix(f"{RUN_DATE}=") for name in names)
    return {night: tuple(read_compacted(uri, night, storage)) for night in nights}


def _read_forgotten(uri: str, storage: Storage) -> tuple[ForgottenFolder, ...]:
    root = join_uri(uri, "_bertmill", "forgotten")
    entries = []
    for item in storage.list_objects(root):
        parts = item.uri.removeprefix(root).strip("/").split("/")
        content = storage.read_bytes(item.uri) if item.uri.endswith(".json") and len(parts) == 2 else None
        if content is not None:
            night, fingerprint = parts[0].removeprefix(f"{RUN_DATE}="), parts[1].removesuffix(".json")
            entries.append(
                ForgottenFolder(item.uri, night, fingerprint, _parse_paths(content, item.uri), item.modified_s)
            )
    return tuple(entries)


def _parse_paths(content: bytes, uri: str) -> frozenset[str]:
    try:
        return frozenset(str(path) for path in json.loads(content)["paths"])
    except (ValueError, KeyError, TypeError) as error:
        raise AccountingError(
            f"{uri}: not a list of forgotten files: {error}", "remove it; the files are then judged anew"
        ) from None


def _carry_out(uri: str, plan: VacuumPlan, storage: Storage) -> None:
    """Files first, then what speaks of them; cut short anywhere, the next vacuum finds the rest."""
    _delete([join_uri(uri, path) for path in plan.remove], storage)
    for night, note in plan.retire:
        write_compacted(uri, night, replace(note, are_retired=True), storage)
    for folder in plan.forget:
        _forget(uri, folder, storage)
    _delete([note_uri(uri, night, note.path) for night, note in plan.drop_notes], storage)
    _delete([entry.uri for entry in plan.drop_forgotten], storage)


def _forget(uri: str, folder: LedgerFolder, storage: Storage) -> None:
    """Drop records, having listed the files they name."""
    ledger = Ledger(uri, folder.run_date, folder.fingerprint, storage, folder.run_date == SNAPSHOT)
    night = f"{RUN_DATE}={folder.run_date}"
    entry = join_uri(uri, "_bertmill", "forgotten", night, f"{folder.fingerprint}.json")
    before = storage.read_bytes(entry)
    paths = folder.paths | (_parse_paths(before, entry) if before is not None else set())
    storage.write_bytes(entry, json.dumps({"paths": sorted(paths)}).encode())
    _delete([join_uri(ledger.root, f"{record.shard}.json") for record in folder.records], storage)


def _delete(uris: list[str], storage: Storage) -> None:
    deque(map_threads(storage.delete, uris, _THREADS), maxlen=0)
