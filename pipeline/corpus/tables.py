"""Folders that are tables, which also hold files of rows that are gone: of a Delta table only live files are read.

Iceberg and Hudi say which files are live in ways that are not read here, so their folders are refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.corpus.walk import is_hidden
from pipeline.errors import CorpusError, first_line
from pipeline.storage import Storage, retrying
from pipeline.uris import join_uri

_DELTA_LOG, _HUDI_LOG = "_delta_log", ".hoodie"
_ICEBERG_SUFFIX, _ICEBERG_FOLDER = ".metadata.json", "metadata"
_MAPPING = "delta.columnMapping.mode"


class TablesBelow:
    """The Delta tables at or below a root, known by the objects of their logs as a listing meets these."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: set[str] = set()

    def note(self, below: str) -> None:
        """Look at the path of one object that is no file of rows, as it stands below the root.

        Raises:
            CorpusError: it belongs to an Iceberg or Hudi table.
        """
        parts = below.split("/")
        if _DELTA_LOG in parts[:-1] and parts[-1].endswith((".json", ".parquet")):
            self._add(parts[: parts.index(_DELTA_LOG)])
        elif _HUDI_LOG in parts[:-1]:
            self._refuse(parts[: parts.index(_HUDI_LOG)], "a Hudi table")
        elif parts[-1].endswith(_ICEBERG_SUFFIX) and parts[-2:-1] == [_ICEBERG_FOLDER]:
            self._refuse(parts[:-2], "an Iceberg table")

    def find(self, storage: Storage) -> set[str]:
        """URIs of the Delta tables noted, and of the one that the root is a hive folder of (`TABLE/day=1`)."""
        folder = self._root
        while "=" in folder.rsplit("/", 1)[-1]:
            folder = folder.rsplit("/", 1)[0]
            if storage.list_level(join_uri(folder, _DELTA_LOG))[0]:
                return {*self._folders, folder}
        return self._folders

    def _add(self, folder: list[str]) -> None:
        if not folder or not is_hidden("/".join(folder)):
            self._folders.add(join_uri(self._root, *folder))

    def _refuse(self, folder: list[str], kind: str) -> None:
        if not folder or not is_hidden("/".join(folder)):
            raise CorpusError(
                f"{join_uri(self._root, *folder)}: {kind}, whose folder may hold files of rows that are gone; "
                "expected plain Parquet files or a Delta table",
                "list the table's live data files with its own tools, and name these in `uri`",
            )


def choose_live(root: str, found: Iterable[str], tables: Iterable[str], storage: Storage) -> Iterator[str]:
    """URIs of what is to be read: every file outside of the tables, and the live files of each, listed or not.

    Args:
        root: Where the listing began; a table may lie above it.
        found: URIs of the Parquet files listed.
        tables: URIs of the Delta tables.
        storage: The store.

    Raises:
        CorpusError: a table cannot be read, or not by its files alone.
    """
    live = {table: _live_uris(table, storage) for table in tables}
    yield from (uri for uri in found if _table_of(uri, live) is None)
    for table, uris in live.items():
        yield from (uri for uri in uris if uri.startswith(f"{root}/") and _table_of(uri, live) == table)


def _table_of(uri: str, tables: Container[str]) -> str | None:
    """The innermost table that a file lies in."""
    folder = uri
    while "/" in folder:
        folder = folder.rsplit("/", 1)[0]
        if folder in tables:
            return folder
    return None


def _live_uris(table: str, storage: Storage) -> list[str]:
    try:
        log = retrying(lambda: DeltaTable(table, storage_options=storage.delta_options(table)), f"open {table}")
        _check_plain(log, table)
        paths = [unquote(path) for path in pa.table(log.get_add_actions())["path"].to_pylist()]
    except (DeltaError, OSError) as error:
        raise CorpusError(
            f"{table}: a Delta table whose log cannot be read: {first_line(error)}",
            "mend the table, or name data files in `uri`",
        ) from None
    if any(path.startswith("/") or "://" in path for path in paths):
        raise _not_plain(table, "names files outside of its folder (a shallow clone)")
    return [join_uri(table, path) for path in paths]


def _check_plain(log: DeltaTable, table: str) -> None:
    """Refuse what files do not show when they are read by themselves."""
    if log.metadata().configuration.get(_MAPPING, "none") != "none":
        raise _not_plain(table, "maps its columns to other names in its files (delta.columnMapping)")
    features = log.protocol().reader_features or ()
    if "deletionVectors" in features and any(batch.num_rows for batch in pa.table(log.deletion_vectors()).to_batches()):
        raise _not_plain(table, "marks rows of its files as deleted (deletion vectors)")


def _not_plain(table: str, found: str) -> CorpusError:
    return CorpusError(
        f"{table}: a Delta table that {found}; expected one whose live files hold its rows and nothing else",
        "write it anew (for deletion vectors, `REORG TABLE ... APPLY (PURGE)` of Spark does), or name a plain copy",
    )
