"""What `bertmill export` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.output.export.night import ExportedNight
    from pipeline.output.export.request import ExportRequest


def print_export(request: ExportRequest, done: ExportedNight) -> None:
    """Where the night's files are named, and what went."""
    if done.switched:
        print(f"exported: night {request.run_date} of {request.table}, version {done.version}")
    else:
        print(f"nothing to do: night {request.run_date} of {request.table} stands in {request.target}")
    size_bytes = sum(part.size_bytes for part in done.parts)
    print(f"  {done.num_rows:,} rows in {len(done.parts):,} {request.ending} files, {size_bytes / 2**20:,.1f} MB")
    print(f"  {request.start}")
    if done.removed:
        print(f"  replaced earlier and removed now: {len(done.removed):,} files")


def describe_export(request: ExportRequest, done: ExportedNight) -> dict[str, Any]:
    """An export as JSON says it."""
    return {
        "table": request.table,
        "version": done.version,
        "run_date": request.run_date,
        "format": request.format,
        "num_rows": done.num_rows,
        "switched": done.switched,
        "start": request.start,
        "files": [{**asdict(part), "uri": f"{request.target}/{part.path}"} for part in done.parts],
        "removed": list(done.removed),
    }
