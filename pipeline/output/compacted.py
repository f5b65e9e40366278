"""Notes on compacted files: which of the ledger's files a larger one stands for.

The ledger names the file each shard was written to, and those names do not change when a night's files are merged.
A note beside it says "this file holds the rows of these". Whoever compares a night with the ledger lets a live
compacted file stand for its parts where all of them are wanted; where one is not (its shard changed), the parts
themselves count again. `vacuum` first marks a note's parts as retired, and deletes them a day later: from the mark on,
no plan builds on them.

    _bertmill/compacted/run_date=2026-11-23/NAME.json
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pipeline.errors import AccountingError
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import join_uri


@dataclass(frozen=True)
class CompactedFile:
    """A file that holds the rows of several of the ledger's files.

    Attributes:
        path: Relative to the table.
        size_bytes: Its size.
        parts: Path -> size of the files it stands for, as the ledger names them.
        are_retired: The parts may be deleted at any time; nothing may be built on them.
        noted_s: When the note was written, by the store's clock.
    """

    path: str
    size_bytes: int
    parts: Mapping[str, int]
    are_retired: bool = False
    noted_s: float | None = None


def read_compacted(table_uri: str, run_date: str, storage: Storage) -> list[CompactedFile]:
    """The notes of one night.

    Raises:
        AccountingError: one of them cannot be read.
    """
    notes = []
    for item in storage.list_objects(_folder(table_uri, run_date)):
        content = storage.read_bytes(item.uri) if item.uri.endswith(".json") else None
        if content is not None:
            notes.append(_parse_note(content, item.uri, item.modified_s))
    return notes


def write_compacted(table_uri: str, run_date: str, note: CompactedFile, storage: Storage) -> None:
    """Write or replace a note."""
    content = {
        "path": note.path,
        "size_bytes": note.size_bytes,
        "parts": dict(note.parts),
        "are_retired": note.are_retired,
    }
    storage.write_bytes(note_uri(table_uri, run_date, note.path), json.dumps(content).encode())


def note_uri(table_uri: str, run_date: str, path: str) -> str:
    """Where the note on a compacted file stands."""
    name = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    return join_uri(_folder(table_uri, run_date), f"{name}.json")


def stand_in(wanted: Collection[str], live: Collection[str], notes: Iterable[CompactedFile]) -> set[str]:
    """The paths a night shall show: wanted ones, or a live compacted file in place of all its parts.

    Args:
        wanted: What the ledger names.
        live: What the night shows now.
        notes: The night's notes.
    """
    paths = set(wanted)
    for note in notes:
        if note.path in live and note.parts.keys() <= paths:
            paths = (paths - note.parts.keys()) | {note.path}
    return paths


def standing_sizes(
    sizes: Mapping[str, int], wanted: Collection[str], live: Collection[str], notes: Collection[CompactedFile]
) -> dict[str, int]:
    """Path -> size of the files a plan may build on.

    Args:
        sizes: What stands in the night's folder.
        wanted: What the ledger names.
        live: What the night shows now.
        notes: The night's notes.

    Returns:
        `sizes` without retired parts, with all parts of the compacted files that stand in for them.
    """
    retired = {path for note in notes if note.are_retired for path in note.parts}
    found = {path: size for path, size in sizes.items() if path not in retired}
    for note in notes:
        if sizes.get(note.path) == note.size_bytes and note.path in stand_in(wanted, live, [note]):
            found.update(note.parts)
    return found


def _folder(table_uri: str, run_date: str) -> str:
    return join_uri(table_uri, "_bertmill", "compacted", f"{RUN_DATE}={run_date}")


def _parse_note(content: bytes, uri: str, noted_s: float | None) -> CompactedFile:
    try:
        values = json.loads(content)
        parts = {str(path): int(size) for path, size in values["parts"].items()}
        return CompactedFile(values["path"], int(values["size_bytes"]), parts, bool(values["are_retired"]), noted_s)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AccountingError(
            f"{uri}: not a note on a compacted file: {error}", "remove it; the night is then published from its parts"
        ) from None
