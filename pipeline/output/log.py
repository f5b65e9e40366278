"""The Delta log, commit by commit: what each one added, removed and says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable

from pipeline.errors import CorpusError
from pipeline.output.manifests import read_manifests, was_empty
from pipeline.output.table import DataFile, live_files, night_of, open_table
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

_COMMIT_NAME = re.compile(r"(\d{20})\.json")
_FACT_PREFIX = "bertmill."
COMPACTION = "compact-"  # a run id that begins so is of a commit that left the rows as they were
_THREADS = 16


@dataclass(frozen=True)
class Commit:
    """One version of a table.

    Attributes:
        version: Its number.
        committed_s: When, in seconds since 1970.
        operation: What Delta calls it.
        facts: What bertmill wrote beside it: night, run id, model version, fingerprint.
        added: Path -> file for every file that became live.
        removed: Path -> when it stopped being live, in seconds since 1970.
        changes_rows: Whether it says so of any file; a compaction does not.
    """

    version: int
    committed_s: float
    operation: str
    facts: Mapping[str, str]
    added: Mapping[str, DataFile]
    removed: Mapping[str, float]
    changes_rows: bool


def require_table(uri: str, storage: Storage) -> DeltaTable:
    """The table at a URI.

    Raises:
        CorpusError: there is none.
    """
    table = open_table(uri, storage)
    if table is None:
        raise CorpusError(f"{uri}: no Delta table there", "check the URI; `bertmill score` creates tables")
    return table


def require_night(table: DeltaTable, uri: str, run_date: str, storage: Storage) -> dict[str, DataFile]:
    """The live files of one night; none where its manifest says that it brought none.

    Raises:
        CorpusError: the table has no such night; the message names those it has.
    """
    files = live_files(table)
    nights = sorted({night_of(path) for path in files})
    found = {path: file for path, file in files.items() if night_of(path) == run_date}
    if not found and not was_empty(read_manifests(uri, storage, run_date)):
        there = ", ".join(nights[-10:]) or "none"
        raise CorpusError(f"{uri}: no night {run_date}", f"nights in the table (the last 10): {there}")
    return found


def last_publication(uri: str, storage: Storage, run_date: str | None) -> int | None:
    """The newest version in which a run published a night (None: any night); None if the log tells of none any more."""
    for commit in newest_commits(uri, storage):
        night, run_id = commit.facts.get("run_date"), commit.facts.get("run_id", COMPACTION)
        if night and run_date in (None, night) and not run_id.startswith(COMPACTION):
            return commit.version
    return None


def last_version_like(uri: str, version: int, storage: Storage) -> int:
    """The newest version with the rows of this one: only commits that change none, as compactions, came between."""
    for number, commit_uri in _list_commits(uri, storage):
        if number == version + 1:
            commit = _read_commit(number, commit_uri, storage)
            if commit is None or commit.changes_rows:
                break
            version = number
    return version


def read_commits(uri: str, storage: Storage, since_s: float = 0.0) -> list[Commit]:
    """The commits whose JSON is still in the log and was written at `since_s` or later, by version.

    Delta keeps a commit's JSON for 30 days unless the table says otherwise; older versions can no longer be opened.
    """
    commits = map_threads(lambda entry: _read_commit(*entry, storage), _list_commits(uri, storage, since_s), _THREADS)
    return [commit for commit in commits if commit is not None]


def newest_commits(uri: str, storage: Storage) -> Iterator[Commit]:
    """The commits whose JSON is still in the log, the newest first, each read when it is asked for.

    Not by deltalake's `history()`: it holds the interpreter's lock while it waits for the store, and the night's lease
    with it, and knows nothing of the store's retries.
    """
    for version, commit_uri in reversed(_list_commits(uri, storage)):
        commit = _read_commit(version, commit_uri, storage)
        if commit is not None:
            yield commit


def _list_commits(uri: str, storage: Storage, since_s: float = 0.0) -> list[tuple[int, str]]:
    """(version, URI of its JSON), by version."""
    found = []
    for item in storage.list_objects(join_uri(uri, "_delta_log")):
        name = _COMMIT_NAME.fullmatch(item.uri.rsplit("/", 1)[-1])
        if name and (item.modified_s is None or item.modified_s >= since_s):
            found.append((int(name[1]), item.uri))
    return sorted(found)


def _read_commit(version: int, uri: str, storage: Storage) -> Commit | None:
    """A commit; None where the log's clean-up has just removed it."""
    content = storage.read_bytes(uri)
    return None if content is None else _parse_commit(version, content)


def _parse_commit(version: int, content: bytes) -> Commit:
    actions = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    committed_s = float(info.get("timestamp", 0)) / 1000
    added = [_added_file(action["add"]) for action in actions if "add" in action]
    removed = [action["remove"] for action in actions if "remove" in action]
    return Commit(
        version,
        committed_s,
        str(info.get("operation", "")),
        {key.removeprefix(_FACT_PREFIX): str(value) for key, value in info.items() if key.startswith(_FACT_PREFIX)},
        {file.path: file for file in added},
        {unquote(item["path"]): max((item.get("deletionTimestamp") or 0) / 1000, committed_s) for item in removed},
        any(item["dataChange"] for action in actions for kind, item in action.items() if kind in ("add", "remove")),
    )


def _added_file(action: dict[str, Any]) -> DataFile:
    stats = json.loads(action.get("stats") or "{}")
    return DataFile(unquote(action["path"]), int(action["size"]), int(stats.get("numRecords", 0)))
