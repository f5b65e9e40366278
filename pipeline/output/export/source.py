"""What an export shall hold: a night's files, the columns of them that are wanted, and an id of this content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import Problem, SpecError
from pipeline.output.export.request import ExportRequest
from pipeline.output.nights import StandingNight, read_night
from pipeline.output.table import DataFile
from pipeline.schema import RUN_DATE_FIELD
from pipeline.storage import Storage

_LAYOUT = 2  # another way of writing the same rows is another content


@dataclass(frozen=True)
class NightContent:
    """What an export of a night holds.

    Attributes:
        night: As it stands in the table.
        content_id: Names the rows, the columns and the way they are written; 16 hexadecimal digits.
        parts: The table's files that each part of the export is made of, in order.
    """

    night: StandingNight
    content_id: str
    parts: tuple[tuple[DataFile, ...], ...]


def read_content(request: ExportRequest, storage: Storage) -> NightContent:
    """What the table shows of the night now; of a snapshot, the whole table as the night left it.

    Raises:
        CorpusError: there is no such table or night, or vacuum has removed files of an older snapshot.
    """
    night = read_night(request.table, request.run_date, storage)
    facts = [_LAYOUT, night.table_id, request.format, request.columns, request.part_bytes]
    content_id = hashlib.sha256(json.dumps([facts, night.names]).encode()).hexdigest()[:16]
    return NightContent(night, content_id, tuple(plan_parts(night.files, request.part_bytes)))


def plan_parts(files: Iterable[DataFile], part_bytes: int) -> list[tuple[DataFile, ...]]:
    """Neighbours together, up to a size; a file that is larger alone is a part by itself."""
    parts: list[list[DataFile]] = []
    size_bytes = 0
    for file in files:
        if not parts or size_bytes + file.size_bytes > part_bytes:
            parts.append([])
            size_bytes = 0
        parts[-1].append(file)
        size_bytes += file.size_bytes
    return [tuple(part) for part in parts]


def read_columns(request: ExportRequest, content: NightContent, storage: Storage) -> pa.Schema:
    """The columns of the export's files: those of the night's files, and the night only where no path says it.

    Raises:
        SpecError: a column is asked for that the night has not, or twice.
        AccountingError: a file of the night is gone.
    """
    there = content.night.columns(storage)
    night = [RUN_DATE_FIELD] if request.format == "iceberg" else []
    if not request.columns:
        return pa.schema([*there, *night])
    unknown = [name for name in request.columns if name not in there.names]
    if unknown or len(set(request.columns)) < len(request.columns):
        found = f"{', '.join(unknown)} not there" if unknown else "a column twice"
        raise SpecError("command line", (Problem("--columns", found, f"some of {', '.join(there.names)}"),))
    return pa.schema([*(there.field(name) for name in request.columns), *night])
