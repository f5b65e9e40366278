"""Files of which every row is wanted and none is remembered: footers, shards and how rows are read, from one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.corpus.column_types import kept_schema
from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.reader import Columns, FileFooter, ReadOptions, read_footers
from pipeline.corpus.shards import Shard, ShardSize, cut_shards
from pipeline.errors import CorpusError, name_some
from pipeline.storage import Storage

USUAL_SIZE = ShardSize(rows=65_536, bytes=64 * 2**20)


def no_rows(uris: Sequence[str], found: str) -> CorpusError:
    """What to say of places that hold no row at all; the first is named."""
    return CorpusError(
        f"{name_some(uris, 1)}: {found}; expected at least one row",
        "write rows to these files, or name others in the spec; where a job before this one writes them, look at it",
    )


@dataclass(frozen=True)
class OpenedRows:
    """What the footers say, the shards that hold every row once, and how to read them."""

    footers: tuple[FileFooter, ...]
    shards: tuple[Shard, ...]
    options: ReadOptions


def open_rows(
    files: Sequence[CorpusFile],
    columns: Columns,
    storage: Storage,
    size: ShardSize = USUAL_SIZE,
    quarantine_blank: bool = True,
) -> OpenedRows:
    """Read footers, check the columns, and cut shards.

    Args:
        files: At least one.
        columns: Columns that every file must have.
        storage: The store.
        size: What one shard aims for.
        quarantine_blank: Whether blank text is a bad row.

    Raises:
        CorpusError: a file cannot be used, a kept column has no common type, or there is no row.
    """
    footers = tuple(read_footers(files, columns, storage))
    shards = tuple(cut_shards((footer.layout for footer in footers), size))
    if not shards:
        raise no_rows([file.uri for file in files], f"no rows in {len(files)} files")
    return OpenedRows(footers, shards, ReadOptions(kept_schema(footers, columns.kept), quarantine_blank))
