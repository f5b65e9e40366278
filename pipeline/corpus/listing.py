"""URIs -> the Parquet files under them, with size and etag, in one order whatever the store's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from pipeline.corpus.tables import TablesBelow, choose_live
from pipeline.corpus.walk import is_hidden, walk
from pipeline.errors import CorpusError
from pipeline.storage import Storage
from pipeline.uris import canonical_uri

_CODECS = ("gzip", "gz", "snappy", "zstd", "zst", "lz4", "brotli", "br")
_PARQUET_SUFFIXES = (".parquet", ".pq", ".parq", *(f".parquet.{codec}" for codec in _CODECS))
_MAX_NAMED = 3
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, order=True, slots=True)
class CorpusFile:
    """One Parquet file of a corpus.

    `partition` holds its hive keys (`.../domain=tweets/a.parquet` -> `(("domain", "tweets"),)`), read from
    the path below the listed root.
    """

    uri: str
    size_bytes: int
    etag: str
    partition: tuple[tuple[str, str | None], ...] = ()


def list_corpus(uris: Iterable[str], storage: Storage) -> list[CorpusFile]:
    """List every Parquet file under the given files, directories and prefixes, each once, by URI.

    Names beginning with `_` or `.` below a root are skipped, as every Parquet reader does; other files with endings
    that are not Parquet's are counted in a warning. Of a Delta table, or a hive folder of one, exactly the live files
    are listed.

    Raises:
        CorpusError: a URI holds nothing, nothing that is Parquet, or a table that cannot be read by its files alone.
        StorageDeniedError, TransientStorageError: the store refused or failed.
    """
    files: dict[str, CorpusFile] = {}
    unread: set[str] = set()
    for uri in uris:
        for file in _list_one(canonical_uri(uri), storage, unread):
            known = files.get(file.uri)
            if known is None or len(file.partition) > len(known.partition):
                files[file.uri] = file  # the root that lies higher knows more hive keys
    _warn_unread(unread.difference(files))
    return [files[uri] for uri in sorted(files)]


def _warn_unread(uris: set[str]) -> None:
    if uris:
        logging.getLogger(__name__).warning(
            "%s other files were not read (first: %s): their names do not end as those of Parquet files do",
            f"{len(uris):,}",
            min(uris),
        )


def _list_one(root: str, storage: Storage, unread: set[str]) -> list[CorpusFile]:
    """The files of one root; to `unread` are added those that are there to be seen, and not known as Parquet."""
    seen: set[str] = set()
    files: list[CorpusFile] = []
    others: list[str] = []
    num_others, tables = 0, TablesBelow(root)
    for item in walk(root, storage):
        below = item.uri.removeprefix(root).strip("/")
        if item.uri.endswith("/"):
            continue  # the empty object that some tools leave for a folder
        is_seen = not is_hidden(below)
        if not below or (is_seen and below.lower().endswith(_PARQUET_SUFFIXES)):
            _check_name(item.uri)
            files.append(CorpusFile(item.uri, item.size_bytes, item.etag, hive_keys(below)))
        else:
            num_others += 1
            tables.note(below)
            if is_seen:
                seen.add(item.uri)
            others = sorted([*others, item.uri.rsplit("/", 1)[-1]])[:_MAX_NAMED]
    if [file.uri for file in files[:2]] == [root]:
        return files  # named itself, whatever a table says of it
    folders = tables.find(storage)
    if folders:
        return _live_files(root, files, folders, storage)
    if files:
        unread |= seen
        return files
    if not num_others:
        raise CorpusError(
            f"{root}: nothing there; expected a Parquet file, a directory of them or a prefix",
            "check the path's spelling (a pattern such as *.parquet is not understood: name the directory); "
            "on object storage, that the prefix exists in this bucket",
        )
    raise CorpusError(
        f"{root}: {num_others} objects but no Parquet file (found {', '.join(others)}); "
        f"expected names ending in {', '.join(_PARQUET_SUFFIXES)}",
        "point `uri` at the directory that holds the Parquet files; if these are such files, rename them, or name each",
    )


def _live_files(root: str, files: list[CorpusFile], tables: set[str], storage: Storage) -> list[CorpusFile]:
    known = {file.uri: file for file in files}
    live = [known.get(uri) or _find_file(uri, root, storage) for uri in choose_live(root, known, tables, storage)]
    if not live:
        raise CorpusError(
            f"{root}: no file there is live in the Delta table {min(tables)}",
            "name the table, or a folder of it that holds rows of its newest version",
        )
    return live


def _find_file(uri: str, root: str, storage: Storage) -> CorpusFile:
    """A live file that was not listed: it is hidden by its name, or was committed since."""
    for item in storage.list_objects(uri):
        return CorpusFile(uri, item.size_bytes, item.etag, hive_keys(uri.removeprefix(root).strip("/")))
    raise CorpusError(
        f"{uri}: live in a Delta table's log, and not there",
        "restore it or repair the table; if the table is being written or vacuumed, run the same command again",
    )


def _check_name(uri: str) -> None:
    """Refuse names that no table can hold: `source_file` is text."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        shown = uri.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise CorpusError(f"{shown}: its name is not UTF-8", "rename the file") from None


def hive_keys(path: str) -> tuple[tuple[str, str | None], ...]:
    """The keys and values in the names of a file's folders (`.../domain=tweets/a.parquet`); None for Hive's null."""
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return tuple((unquote(key), None if value == _HIVE_NULL else unquote(value)) for key, value in pairs)
