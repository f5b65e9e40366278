"""`bertmill table vacuum|compact URI`: delete what nobody needs, merge what is too small."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import Endpoint, Night, TableUri, open_storage
from pipeline.uris import canonical_uri

Retention = Annotated[float, typer.Option(min=0, help="keep files that a version of the last H hours names")]
Safety = Annotated[float, typer.Option(min=0, help="keep files younger than H hours: longer than any shard takes")]
Unpublished = Annotated[
    float | None,
    typer.Option(min=0, help="give up nights that were scored and, D days after their last shard, not published"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would go; delete nothing")]
Target = Annotated[int, typer.Option(min=1, help="merge files that fit together under so many MB")]


def vacuum(
    uri: TableUri,
    retention_hours: Retention = 168,
    safety_hours: Safety = 24,
    unpublished_days: Unpublished = None,
    dry_run: DryRun = False,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Delete Parquet files that no version within the retention names and no run may still publish."""
    with guarded(debug):
        from jobs.table.printing import print_vacuum
        from pipeline.output.vacuum import vacuum_table
        from pipeline.output.vacuum_plan import VacuumOptions

        given_up_s = None if unpublished_days is None else unpublished_days * 86_400
        options = VacuumOptions(retention_hours * 3_600, safety_hours * 3_600, dry_run, given_up_s)
        report = vacuum_table(uri, options, open_storage(endpoint_url))
        print_vacuum(canonical_uri(uri), report, dry_run)


def compact(
    uri: TableUri, date_: Night, target_mb: Target = 256, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Rewrite a night's many small files into fewer larger ones, in one commit; no row changes."""
    with guarded(debug):
        from jobs.table.printing import print_compaction
        from pipeline.output.compact import compact_night

        night = parse_date(date_)
        done = compact_night(uri, night, target_mb * 2**20, open_storage(endpoint_url))
        print_compaction(canonical_uri(uri), night, done)
