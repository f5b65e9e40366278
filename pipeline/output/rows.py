"""A scored table as data to learn from: which files hold the rows of a night."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import CorpusError
from pipeline.output.history import list_live_files
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri


def expand_tables(uris: Iterable[str], storage: Storage) -> list[str]:
    """URIs with each table, or night of one (`TABLE/run_date=2026-11-23`), replaced by its live files.

    A table's folder also holds files of commits that were given up or replaced, so it is no plain directory of Parquet.

    Raises:
        CorpusError: a table has several nights and none is named, or not the one that is, or no row in it.
    """
    return [found for uri in uris for found in _expand(canonical_uri(uri), storage)]


def _expand(uri: str, storage: Storage) -> list[str]:
    root, _, last = uri.rpartition("/")
    named = last.removeprefix(f"{RUN_DATE}=") if last.startswith(f"{RUN_DATE}=") else None
    table = uri if named is None else root
    if not storage.list_objects(join_uri(table, "_delta_log")):
        return [uri]
    files = list_live_files(table, storage, named)
    if not files:
        raise CorpusError(f"{uri}: holds no rows", "name a night that has some (`bertmill table nights` shows them)")
    nights = sorted({file.run_date for file in files})
    if len(nights) > 1:
        raise CorpusError(
            f"{uri}: a table of {len(nights)} nights, which may hold the same rows again",
            f"name the nights to learn from, as {join_uri(table, f'{RUN_DATE}={nights[-1]}')}",
        )
    return [file.uri for file in files]
