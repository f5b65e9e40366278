"""One night exported: all its parts are written, and then one object says that they are the night."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.errors import CommitConflictError, OutputTakenError
from pipeline.output.export.iceberg import IcebergTable
from pipeline.output.export.parts import ExportedPart, PartWriter
from pipeline.output.export.remove import remove_replaced
from pipeline.output.export.request import RECEIPTS, ExportRequest
from pipeline.output.export.source import NightContent, read_columns, read_content
from pipeline.storage import Storage
from pipeline.uris import join_uri


@dataclass(frozen=True)
class ExportedNight:
    """What an export did.

    Attributes:
        content_id: Names the folder that the files are in.
        version: The table's version that was read.
        parts: The night's files.
        switched: Whether the manifest or the Iceberg table was; False where the night already was this content.
        removed: URIs of files that were replaced long enough ago.
    """

    content_id: str
    version: int
    parts: tuple[ExportedPart, ...]
    switched: bool
    removed: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """In all files."""
        return sum(part.num_rows for part in self.parts)


def export_night(request: ExportRequest, storage: Storage) -> ExportedNight:
    """Make the export show what the table shows of a night; nothing to do where it does.

    Raises:
        CorpusError: there is no such table or night.
        SpecError: a column is asked for that the table has not.
        OutputTakenError: the target or the Iceberg table is something else.
        InputError: the Iceberg catalog cannot be used.
        AccountingError: a file of the table is not what its log says; the export stays as it was.
        CommitConflictError: the night was published anew meanwhile; the export stays as it was.
    """
    content = read_content(request, storage)
    columns = read_columns(request, content, storage)
    _claim_target(request, content, storage)
    iceberg = IcebergTable(request, content, columns, storage) if request.iceberg is not None else None
    parts = PartWriter(request, content, columns, storage).write_all()
    if read_content(request, storage).content_id != content.content_id:
        raise CommitConflictError(
            f"{request.table}: night {request.run_date} was published anew while it was exported; "
            "the export stays as it was",
            "run the same command again",
        )
    switched = iceberg.switch([part.path for part in parts]) if iceberg else _switch(request, parts, storage)
    removed = remove_replaced(request.target, request.keep_s, storage)
    return ExportedNight(content.content_id, content.night.version, tuple(parts), switched, tuple(removed))


def _claim_target(request: ExportRequest, content: NightContent, storage: Storage) -> None:
    """A place is for one table, one format and one choice of columns: a reader of several nights relies on it."""
    uri = join_uri(request.target, RECEIPTS, "identity.json")
    wanted = {"table_id": content.night.table_id, "format": request.format, "columns": list(request.columns)}
    found = storage.read_bytes(uri)
    if found is None:
        strange = storage.list_objects(request.target)
        if strange:
            raise OutputTakenError(
                f"{request.target}: already holds something that is not an export (first: {strange[0].uri})",
                "choose another --to, or empty this one",
            )
        storage.create_bytes(uri, json.dumps({**wanted, "table": request.table}).encode())
        found = storage.read_bytes(uri) or b"{}"
    said = json.loads(found)
    different = [name for name, value in wanted.items() if said.get(name) != value]
    if different:
        raise OutputTakenError(
            f"{request.target}: holds an export of {said.get('table')} as {said.get('format')}, "
            f"columns {', '.join(said.get('columns', ())) or 'all'}; another {different[0]} is asked for",
            "choose another --to: one place holds one table in one format",
        )


def _switch(request: ExportRequest, parts: list[ExportedPart], storage: Storage) -> bool:
    """The one PUT that readers see; whether there was anything to say."""
    manifest = "".join(f"{join_uri(request.target, part.path)}\n" for part in parts).encode()
    if storage.read_bytes(request.manifest_uri) == manifest:
        return False
    storage.write_bytes(request.manifest_uri, manifest)
    return True
