"""URIs -> the Parquet files under them, with size and etag, in one order whatever the store's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from pipeline.errors import CorpusError
from pipeline.storage import Storage
from pipeline.uris import canonical_uri

_PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")


@dataclass(frozen=True, order=True, slots=True)
class CorpusFile:
    """One Parquet file of a corpus.

    `partition` holds its hive keys (`.../domain=tweets/a.parquet` -> `(("domain", "tweets"),)`), read from
    the path below the listed root.
    """

    uri: str
    size_bytes: int
    etag: str
    partition: tuple[tuple[str, str], ...] = ()


def list_corpus(uris: Iterable[str], storage: Storage) -> list[CorpusFile]:
    """List every Parquet file under the given files, directories and prefixes, each once, by URI.

    Names beginning with `_` or `.` below a root are skipped, as every Parquet reader does.

    Raises:
        CorpusError: a URI holds nothing, or nothing that is Parquet.
        StorageDeniedError, TransientStorageError: the store refused or failed.
    """
    files: dict[str, CorpusFile] = {}
    for uri in uris:
        for file in _list_one(canonical_uri(uri), storage):
            known = files.get(file.uri)
            if known is None or len(file.partition) > len(known.partition):
                files[file.uri] = file  # the root that lies higher knows more hive keys
    return [files[uri] for uri in sorted(files)]


def _list_one(root: str, storage: Storage) -> list[CorpusFile]:
    found = storage.list_objects(root)
    if not found:
        raise CorpusError(
            f"{root}: nothing there; expected a Parquet file, a directory of them or a prefix",
            "check the path's spelling; on object storage, that the prefix exists in this bucket",
        )
    files = []
    for item in found:
        below = item.uri.removeprefix(root).strip("/")
        if not below or (not _is_hidden(below) and below.lower().endswith(_PARQUET_SUFFIXES)):
            files.append(CorpusFile(item.uri, item.size_bytes, item.etag, _partition_of(below)))
    if not files:
        names = ", ".join(item.uri.rsplit("/", 1)[-1] for item in found[:3])
        raise CorpusError(
            f"{root}: {len(found)} objects but no Parquet file (found {names}); "
            f"expected names ending in {', '.join(_PARQUET_SUFFIXES)}",
            "point `uri` at the directory that holds the Parquet files",
        )
    return files


def _is_hidden(below: str) -> bool:
    return any(part.startswith(("_", ".")) and "=" not in part for part in below.split("/"))


def _partition_of(below: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.split("=", 1) for part in below.split("/")[:-1] if "=" in part]
    return tuple((unquote(key), unquote(value)) for key, value in pairs)
