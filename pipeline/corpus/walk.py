"""Every object below a place: links are followed on a local disk, folders of a remote store are listed in parallel."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pipeline.errors import CorpusError
from pipeline.storage import Storage, StoredObject, map_threads, retrying
from pipeline.uris import split_uri

_THREADS = 32
_MAX_FOLDERS = 4_096  # beyond, one request for each folder would be more than one for each thousand objects


def walk(root: str, storage: Storage) -> Iterator[StoredObject]:
    """The objects under a canonical URI (or the object itself), as they are found, in no fixed order, some twice.

    Raises:
        CorpusError: a local link leads nowhere.
        StorageDeniedError, TransientStorageError: the store refused or failed.
    """
    if split_uri(root)[0] == "file":
        return _walk_local(root)
    return _walk_remote(root, storage)


def is_hidden(below: str) -> bool:
    """Whether a path below a root is one that no Parquet reader looks at: a part of it begins with `_` or `.`."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in below.split("/"))


def _walk_remote(root: str, storage: Storage) -> Iterator[StoredObject]:
    """Level by level until there are folders enough to keep all threads busy; these then each with all below."""
    folders = [root]
    while 0 < len(folders) < _THREADS:
        levels = list(map_threads(storage.list_level, folders, _THREADS))
        found = [folder for _, below in levels for folder in below]
        if len(found) > _MAX_FOLDERS:
            break
        for objects, _ in levels:
            yield from objects
        folders = found
    for objects in map_threads(storage.list_objects, folders, _THREADS):
        yield from objects


def _walk_local(root: str) -> Iterator[StoredObject]:
    """Regular files; a link to a folder above itself is not followed."""
    if not os.path.isdir(root):
        if os.path.exists(root):
            yield _stored(root, os.stat(root))
        return
    real_root = os.path.realpath(root)
    pending = [(root, real_root, frozenset([real_root]))]
    while pending:
        folder, real_folder, above = pending.pop()
        for entry in retrying(lambda at=folder: list(os.scandir(at)), f"list {folder}"):  # type: ignore[misc]
            try:
                found = entry.stat()
            except FileNotFoundError:
                _check_link(entry, root)
                continue
            if stat.S_ISREG(found.st_mode):
                yield _stored(entry.path, found)
            elif stat.S_ISDIR(found.st_mode):
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real_folder, entry.name)
                if real not in above:
                    pending.append((entry.path, real, above | {real}))


def _check_link(entry: os.DirEntry[str], root: str) -> None:
    if entry.is_symlink() and not is_hidden(entry.path.removeprefix(root).strip("/")):
        raise CorpusError(
            f"{entry.path}: a link to {os.readlink(entry.path)}, which is not there", "mend or remove the link"
        )


def _stored(path: str, found: os.stat_result) -> StoredObject:
    """With the etag that `Storage` gives a local file."""
    return StoredObject(path, found.st_size, f"{found.st_size}-{found.st_mtime}", found.st_mtime)
