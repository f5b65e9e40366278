"""A scored table as data to learn from: no row twice."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import CorpusError
from pipeline.output.history import list_live_files
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri


def check_nights(uris: Iterable[str], storage: Storage) -> None:
    """Make sure that each table is named by one night (`TABLE/run_date=2026-11-23`), or has no more.

    Raises:
        CorpusError: a table has several nights and none is named, or not the one that is, or no row in it.
    """
    for uri in uris:
        _check_nights(canonical_uri(uri), storage)


def _check_nights(uri: str, storage: Storage) -> None:
    root, _, last = uri.rpartition("/")
    named = last.removeprefix(f"{RUN_DATE}=") if last.startswith(f"{RUN_DATE}=") else None
    table = uri if named is None else root
    if not storage.list_objects(join_uri(table, "_delta_log")):
        return
    files = list_live_files(table, storage, named)
    if not files:
        raise CorpusError(f"{uri}: holds no rows", "name a night that has some (`bertmill table nights` shows them)")
    nights = sorted({file.run_date for file in files})
    if len(nights) > 1:
        raise CorpusError(
            f"{uri}: a table of {len(nights)} nights, which may hold the same rows again",
            f"name the nights to learn from, as {join_uri(table, f'{RUN_DATE}={nights[-1]}')}",
        )
