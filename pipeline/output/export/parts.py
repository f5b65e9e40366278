"""Writes the parts of an export, each once: what has a receipt stands, whoever wrote it.

Names of files are new with every attempt, and nothing is written over: of two exports of the same content, or of one
that was killed and runs again, each part's first receipt wins and the others' files go.

In memory: a row group that is read and one that is written, for each of two parts at a time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial

import pyarrow as pa

from pipeline.errors import AccountingError
from pipeline.output.export.csv_file import write_csv
from pipeline.output.export.request import RECEIPTS, ExportRequest
from pipeline.output.export.source import NightContent
from pipeline.output.row_groups import read_row_groups
from pipeline.output.writer import WrittenFile, write_row_groups
from pipeline.schema import RUN_DATE, RUN_DATE_FIELD, file_schema
from pipeline.storage import Storage, map_threads
from pipeline.telemetry import ProgressDisplay
from pipeline.uris import join_uri

_WRITERS = 2
_READERS = 16


@dataclass(frozen=True)
class ExportedPart:
    """A file of an export: path relative to the export's URI."""

    path: str
    size_bytes: int
    num_rows: int


@dataclass(frozen=True)
class PartWriter:
    """Writes parts of one content."""

    request: ExportRequest
    content: NightContent
    columns: pa.Schema
    storage: Storage

    def write_all(self) -> list[ExportedPart]:
        """Every part, in order; those with a receipt are not written again.

        Raises:
            AccountingError: a file of the table is gone, or is not what the table's log says.
        """
        standing = self._find_standing()
        done: list[ExportedPart] = []
        num_rows = 0
        with ProgressDisplay("exporting", self.content.night.num_rows, "rows") as progress:
            for part in map_threads(partial(self._part, standing), range(len(self.content.parts)), _WRITERS, _WRITERS):
                done.append(part)
                num_rows += part.num_rows
                progress.update(num_rows, f"{len(done):,} of {len(self.content.parts):,} files")
        return done

    def receipt_uri(self, index: int) -> str:
        """Where a part's receipt stands."""
        return join_uri(self.request.target, RECEIPTS, self._folder, f"{index:05d}.json")

    @property
    def _folder(self) -> str:
        return self.request.folder(self.content.content_id)

    def _find_standing(self) -> dict[int, ExportedPart]:
        """Parts with a receipt whose files stand in full; a receipt whose file is gone is withdrawn."""
        target = self.request.target
        named = {item.uri for item in self.storage.list_objects(join_uri(target, RECEIPTS, self._folder))}
        indices = [index for index in range(len(self.content.parts)) if self.receipt_uri(index) in named]
        receipts = dict(zip(indices, map_threads(self._read_receipt, indices, _READERS), strict=True))
        # listed after the receipts were read: a racer's file stands before its receipt does
        listed = self.storage.list_objects(join_uri(target, self._folder)) if receipts else []
        sizes = {item.uri.removeprefix(target).strip("/"): item.size_bytes for item in listed}
        found = {}
        for index, part in receipts.items():
            if part is not None and sizes.get(part.path) == part.size_bytes:
                found[index] = part
            else:
                self.storage.delete(self.receipt_uri(index))
        return found

    def _read_receipt(self, index: int) -> ExportedPart | None:
        content = self.storage.read_bytes(self.receipt_uri(index))
        return None if content is None else ExportedPart(**json.loads(content))

    def _part(self, standing: dict[int, ExportedPart], index: int) -> ExportedPart:
        return standing.get(index) or self._claim(index, self._write(index))

    def _claim(self, index: int, part: ExportedPart) -> ExportedPart:
        if self.storage.create_bytes(self.receipt_uri(index), json.dumps(asdict(part)).encode()):
            return part
        winner = self._read_receipt(index)
        if winner is None:
            raise AccountingError(f"{self.receipt_uri(index)}: went while it was read", "run the same command again")
        if winner.path != part.path:  # else it is ours: the answer to the first attempt was lost
            self.storage.delete(join_uri(self.request.target, part.path))
        return winner

    def _write(self, index: int) -> ExportedPart:
        path = f"{self._folder}/part-{index:05d}-{uuid.uuid4().hex[:8]}.{self.request.ending}"
        uri = join_uri(self.request.target, path)
        written = self._write_file(index, uri)
        num_rows = sum(file.num_rows for file in self.content.parts[index])
        if written.num_rows != num_rows:
            self.storage.delete(uri)
            raise AccountingError(
                f"night {self.request.run_date} of {self.request.table}: {written.num_rows} rows read where the log "
                f"says {num_rows}; the export stays as it was",
                "`bertmill table verify` says which file is wrong; score the night again to replace it",
            )
        return ExportedPart(path, written.size_bytes, written.num_rows)

    def _write_file(self, index: int, uri: str) -> WrittenFile:
        read = partial(self._read_tables, index)
        if self.request.format == "csv":
            return write_csv(read, self.columns, uri, self.storage)
        marks = {
            "bertmill.table_id": self.content.night.table_id,
            "bertmill.table_version": str(self.content.night.version),
            f"bertmill.{RUN_DATE}": self.request.run_date,
        }
        return write_row_groups(read, self.columns.with_metadata(marks), uri, self.storage)

    def _read_tables(self, index: int) -> Iterator[pa.Table]:
        wanted = file_schema(self.columns)
        for file in self.content.parts[index]:
            for table in read_row_groups(join_uri(self.request.table, file.path), self.storage, wanted):
                yield table if RUN_DATE not in self.columns.names else self._with_night(table)

    def _with_night(self, table: pa.Table) -> pa.Table:
        """Iceberg has the night in the files, which others have in the path."""
        night = pa.scalar(date.fromisoformat(self.request.run_date), RUN_DATE_FIELD.type)
        return table.append_column(RUN_DATE_FIELD, pa.repeat(night, table.num_rows))
