"""Removes what an export has replaced, some time after it was: a query that began on the old files may end on them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.output.export.request import MANIFESTS, RECEIPTS
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage, StoredObject, map_threads

_THREADS = 16


@dataclass
class _Night:
    """What stands of one night: its manifest, and by content its files and receipts."""

    manifest: StoredObject | None = None
    files: dict[str, list[StoredObject]] = field(default_factory=lambda: defaultdict(list))
    receipts: dict[str, list[StoredObject]] = field(default_factory=lambda: defaultdict(list))


def remove_replaced(target: str, keep_s: float, storage: Storage) -> list[str]:
    """Delete contents that a night's manifest no longer names, and files of attempts that lost to others.

    A content goes when the manifest has named another for `keep_s` seconds and nothing was written to it for as long,
    so that neither a reader of the old files nor an export under way loses anything. A night without a manifest is
    an unfinished export, which keeps its parts.

    Returns:
        URIs of the files that went, in order.
    """
    now_s = time.time()
    removed = []
    for _, night in sorted(_list_nights(target, storage).items()):
        for receipts, files in _replaced(night, now_s, keep_s, storage):
            for items in (receipts, files):  # receipts first: one that stands says that its file does
                for _ in map_threads(lambda item: storage.delete(item.uri), items, _THREADS):
                    pass
            removed += [item.uri for item in files]
    return removed


def _replaced(
    night: _Night, now_s: float, keep_s: float, storage: Storage
) -> Iterator[tuple[list[StoredObject], list[StoredObject]]]:
    """Receipts and files that nobody needs any more, content by content."""
    if night.manifest is None or not _may_hold_more(night):
        return
    named = set((storage.read_bytes(night.manifest.uri) or b"").decode().splitlines())
    for content_id in sorted(night.files.keys() | night.receipts.keys()):
        receipts, files = night.receipts[content_id], night.files[content_id]
        if any(item.uri in named for item in files):
            # every part has its receipt, so what is beside them lost; but a racer may still be writing one
            yield [], [item for item in files if item.uri not in named and not _is_young_attempt(item, now_s, keep_s)]
        elif all(_is_older(item, now_s, keep_s) for item in (night.manifest, *receipts, *files)):
            yield receipts, files


def _list_nights(target: str, storage: Storage) -> dict[str, _Night]:
    nights: dict[str, _Night] = defaultdict(_Night)
    for item in storage.list_objects(target):
        match item.uri.removeprefix(target).strip("/").split("/"):
            case [folder, night, "manifest"] if folder == MANIFESTS:
                nights[_date(night)].manifest = item
            case [folder, night, content_id, _] if folder == RECEIPTS:
                nights[_date(night)].receipts[content_id].append(item)
            case [night, content_id, _] if night.startswith(f"{RUN_DATE}="):
                nights[_date(night)].files[content_id].append(item)
    return nights


def _date(folder: str) -> str:
    return folder.removeprefix(f"{RUN_DATE}=")


def _may_hold_more(night: _Night) -> bool:
    """Whether the manifest need be read: a night's only content has a receipt for each file."""
    return len(night.files) != 1 or _count(night.files) != _count(night.receipts)


def _count(items: dict[str, list[StoredObject]]) -> int:
    return sum(map(len, items.values()))


def _is_young_attempt(item: StoredObject, now_s: float, keep_s: float) -> bool:
    return item.uri.rsplit("/", 1)[-1].startswith(".") and not _is_older(item, now_s, keep_s)


def _is_older(item: StoredObject, now_s: float, keep_s: float) -> bool:
    return keep_s <= 0 or (item.modified_s is not None and now_s - item.modified_s >= keep_s)
