"""Where nights hold only what is new: which night holds the rows of which corpus file, as a Delta table of its own.

    _current/    source_file, night; whoever joins the scored table with it has one row per source row

Written after the night's own commit and replaced in one: a reader between the two sees the corpus as the night before
left it, in nights that are still there. A run killed between them is not done, and the next one writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from pipeline.output.keys import read_row_groups
from pipeline.output.table import DataFile, Night, live_files, night_of, open_table, publish_night
from pipeline.output.writer import write_parquet
from pipeline.schema import CURRENT, RUN_DATE, RUN_DATE_FIELD, SOURCE_FILE, file_schema
from pipeline.storage import Storage
from pipeline.uris import join_uri

CURRENT_SCHEMA = pa.schema(
    [pa.field(SOURCE_FILE, pa.string(), nullable=False), pa.field("night", pa.date32(), nullable=False), RUN_DATE_FIELD]
)


def publish_current(
    table_uri: str, run_date: str, nights: Mapping[str, str], facts: Mapping[str, str], storage: Storage
) -> None:
    """Let a night say where the rows of each file stand, unless a later night has said so.

    Args:
        table_uri: The scored table.
        run_date: The night.
        nights: Corpus file -> the night that holds its rows.
        facts: What the commit says of itself.
        storage: The store.
    """
    if says_current(table_uri, run_date, nights, storage):
        return
    root, path = join_uri(table_uri, CURRENT), _path(run_date, nights)
    uris = sorted(nights)
    columns = [pa.array(uris, pa.string()), pa.array([date.fromisoformat(nights[uri]) for uri in uris], pa.date32())]
    rows = pa.table(columns, schema=file_schema(CURRENT_SCHEMA))
    written = write_parquet(rows, join_uri(root, path), {}, storage)
    file = DataFile(path, written.size_bytes, written.num_rows)
    publish_night(root, Night(run_date, (file,), CURRENT_SCHEMA, facts, is_snapshot=True), storage)


def says_current(table_uri: str, run_date: str, nights: Mapping[str, str], storage: Storage) -> bool:
    """Whether the list says just this, or is a later night's."""
    table = open_table(join_uri(table_uri, CURRENT), storage)
    live = live_files(table) if table is not None else {}
    return _path(run_date, nights) in live or any(night_of(path) > run_date for path in live)


@dataclass(frozen=True)
class Current:
    """What the list says.

    Attributes:
        nights: Corpus file -> the night in which its rows are to be read.
        said_by: The night that said so; empty where none has.
    """

    nights: Mapping[str, str]
    said_by: str

    def held_by(self, night: str) -> frozenset[str]:
        """The corpus files whose rows are to be read in a night."""
        return frozenset(uri for uri, found in self.nights.items() if found == night)


def read_current(table_uri: str, storage: Storage) -> Current:
    """The list as it stands."""
    root = join_uri(table_uri, CURRENT)
    table = open_table(root, storage)
    paths = sorted(live_files(table)) if table is not None else []
    parts = [part for path in paths for _, part in read_row_groups(root, path, None, storage)]
    nights = {
        uri: night.isoformat()
        for part in parts
        for uri, night in zip(part[SOURCE_FILE].to_pylist(), part["night"].to_pylist(), strict=True)
    }
    return Current(nights, max(map(night_of, paths), default=""))


def _path(run_date: str, nights: Mapping[str, str]) -> str:
    """Named by what it says, so that a second run of a night finds its own list."""
    digest = hashlib.sha256()
    for uri in sorted(nights):
        digest.update(f"{len(uri)} {uri} {nights[uri]} ".encode())
    return f"{RUN_DATE}={run_date}/{digest.hexdigest()[:32]}.parquet"
