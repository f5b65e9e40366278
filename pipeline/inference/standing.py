"""Which of a table's files a plan may build on, and which a night shall show."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipeline.inference.plan import quarantine_files, scored_files
from pipeline.output.columns import columns_of, same_type
from pipeline.output.compacted import standing_sizes
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.table import DataFile, live_files, open_table, read_notes
from pipeline.output.writer import read_columns, read_footer
from pipeline.schema import QUARANTINE, RUN_DATE, SOURCE_FOOTER, file_schema
from pipeline.storage import map_threads
from pipeline.uris import join_uri

_THREADS = 16


def standing_files(ledger: Ledger, records: Iterable[DoneRecord]) -> dict[str, int]:
    """Path -> size of the files as they stand, scored and quarantined; compacted ones as their parts."""
    uri, storage = ledger.table_uri, ledger.storage
    names = (RUN_DATE, f"{QUARANTINE}/{RUN_DATE}")
    folders = [""] if ledger.is_snapshot else [f"{name}={ledger.run_date}" for name in names]
    sizes = {
        item.uri.removeprefix(uri).strip("/"): item.size_bytes
        for folder in folders
        for item in storage.list_objects(join_uri(uri, folder) if folder else uri)
    }
    night = None if ledger.is_snapshot else ledger.run_date
    table = open_table(uri, storage)
    if table is None:
        return sizes
    notes = read_notes(uri, table, night, storage)
    return standing_sizes(sizes, {file.path for file in scored_files(records)}, live_files(table, night), notes)


def usable_files(ledger: Ledger, records: Iterable[DoneRecord], schema: pa.Schema) -> dict[str, int]:
    """Those that stand, without scored ones whose columns have other types than the night's.

    Types of kept columns are those that hold every file of the corpus: one that came since may have widened them. Where
    the table has the columns they cannot have changed, and no file is looked at.
    """
    records, wanted, uri, storage = list(records), file_schema(schema), ledger.table_uri, ledger.storage
    sizes, table = standing_files(ledger, records), open_table(uri, storage)
    if table is not None and set(wanted.names) <= set(columns_of(table).names):
        return sizes
    paths = [file.path for file in scored_files(records) if file.path in sizes]
    found = map_threads(lambda path: read_columns(join_uri(uri, path), storage), paths, _THREADS)
    other = {path for path, there in zip(paths, found, strict=True) if not _same_columns(wanted, there)}
    return {path: size for path, size in sizes.items() if path not in other}


def _same_columns(wanted: pa.Schema, there: pa.Schema) -> bool:
    return wanted.names == there.names and all(map(same_type, wanted.types, there.types))


def shown_files(
    ledger: Ledger, records: Iterable[DoneRecord], kept_uris: frozenset[str] | None
) -> tuple[DataFile, ...]:
    """The files the table (or the night) shall show: those of the records and, where asked, of files that are gone.

    Args:
        ledger: Says which table, and whether it is a snapshot.
        records: Of every shard of the plan.
        kept_uris: The corpus's files that can be read, if the last rows of all others are kept.
    """
    wanted = scored_files(records)
    return (*wanted, *_vanished(ledger, ledger.table_uri, wanted, kept_uris))


def shown_quarantine(
    ledger: Ledger, records: Iterable[DoneRecord], kept_uris: frozenset[str] | None
) -> tuple[DataFile, ...]:
    """The same of the quarantine."""
    wanted = quarantine_files(records)
    return (*wanted, *_vanished(ledger, join_uri(ledger.table_uri, QUARANTINE), wanted, kept_uris))


def _vanished(
    ledger: Ledger, uri: str, wanted: tuple[DataFile, ...], kept_uris: frozenset[str] | None
) -> list[DataFile]:
    """Live files whose one corpus file is gone or cannot be read, by what their footers say."""
    table = open_table(uri, ledger.storage) if kept_uris is not None else None
    if table is None or kept_uris is None:
        return []
    known = {file.path for file in wanted}
    others = [file for path, file in live_files(table).items() if path not in known]
    footers = map_threads(lambda file: read_footer(join_uri(uri, file.path), ledger.storage), others, _THREADS)
    sources = {file: footer.get(SOURCE_FOOTER) for file, footer in zip(others, footers, strict=True)}
    return [file for file, source in sources.items() if source is not None and source not in kept_uris]
