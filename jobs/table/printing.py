"""What the table commands print."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.inference.closeness import RescoredSample
    from pipeline.output.compact import Compaction
    from pipeline.output.compare import NightComparison
    from pipeline.output.history import NightSummary, VersionSummary
    from pipeline.output.vacuum import VacuumReport
    from pipeline.output.verify import VerifiedNight

_MAX_FLIPS = 20


def print_nights(nights: list[NightSummary]) -> None:
    """The nights of a table."""
    table = Table("night", "rows", "files", "MB", "quarantined", "version", "models")
    for night in nights:
        table.add_row(
            night.run_date,
            f"{night.num_rows:,}",
            f"{night.num_files:,}",
            f"{night.size_bytes / 2**20:,.1f}",
            f"{night.num_quarantined_rows:,}",
            "" if night.version is None else str(night.version),
            ", ".join(night.model_versions),
        )
    print_wide(table)


def print_versions(versions: list[VersionSummary]) -> None:
    """The versions of a table; `?` where the log no longer says."""
    table = Table("version", "time (UTC)", "night", "run", "rows added", "rows removed", "files", "model")
    for version in versions:
        removed = "?" if version.num_removed_rows is None else f"{version.num_removed_rows:,}"
        table.add_row(
            str(version.version),
            f"{datetime.fromtimestamp(version.committed_s, UTC):%Y-%m-%d %H:%M:%S}",
            version.run_date,
            version.run_id or version.operation.lower(),
            f"{version.num_added_rows:,}",
            removed,
            f"+{version.num_added_files:,} -{version.num_removed_files:,}",
            version.model_version,
        )
    print_wide(table)


def print_vacuum(uri: str, report: VacuumReport, is_dry_run: bool) -> None:
    """Every file that went, and why the others stay."""
    for path, size_bytes, reason in report.removed:
        print(f"{path}  {size_bytes:,} bytes: {reason}")
    would = "would be " if is_dry_run else ""
    print(f"{uri}: {len(report.removed):,} files {would}removed, {report.removed_bytes / 2**20:,.1f} MB")
    if report.num_forgotten_records:
        print(f"done-records {would}forgotten: {report.num_forgotten_records:,}")
    for reason, num_files in sorted(report.kept.items()):
        print(f"  kept {num_files:,}: {reason}")


def print_compaction(uri: str, night: str, done: Compaction) -> None:
    """Files and bytes before and after."""
    if not done.num_merged_files:
        print(f"nothing to do: no two of the {done.num_files_before:,} files of night {night} fit under the target")
        return
    print(f"compacted: night {night} of {uri}, version {done.version}")
    print(
        f"  files {done.num_files_before:,} -> {done.num_files_after:,} ({done.num_merged_files:,} merged); "
        f"MB {done.size_bytes_before / 2**20:,.1f} -> {done.size_bytes_after / 2**20:,.1f}"
    )
    print("  the merged files stay for older versions until `bertmill table vacuum` removes them")


def print_comparison(found: NightComparison, as_json: bool) -> None:
    """Rows, label flips, shifts and cosines."""
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(f"night {found.first}: {found.num_rows_first:,} rows; night {found.second}: {found.num_rows_second:,} rows")
    print(f"  only in {found.first}: {found.num_rows_only_first:,}")
    print(f"  only in {found.second}: {found.num_rows_only_second:,}")
    names = [*(label.column for label in found.labels), *(shift.column for shift in found.numbers)]
    compared = ", ".join([*names, *(vector.column for vector in found.vectors)]) or "no column"
    print(f"  in both: {found.num_rows_both:,}, of which {found.num_rows_unchanged:,} unchanged in {compared}")
    for sentence in found.not_compared.sentences:
        print(f"  {sentence}")
    for label in found.labels:
        print(f"{label.column}: {label.num_changed_rows:,} rows changed")
        for before, after, count in label.flips[:_MAX_FLIPS]:
            print(f"  {before} -> {after}: {count:,}")
        if len(label.flips) > _MAX_FLIPS:
            print(f"  and {len(label.flips) - _MAX_FLIPS:,} other changes (--json lists all)")
    for shift in found.numbers:
        if shift.mean_absolute is not None:
            print(f"{shift.column}: absolute shift mean {shift.mean_absolute:.6f}, max {shift.max_absolute:.6f}")
    for vector in found.vectors:
        if vector.mean_cosine is not None:
            print(f"{vector.column}: cosine mean {vector.mean_cosine:.6f}, min {vector.min_cosine:.6f}")


def print_verified(uri: str, found: VerifiedNight) -> None:
    """What was read, and what could not be checked."""
    print(f"night {found.run_date} of {uri}: {found.num_files:,} files, {found.num_rows:,} rows read again")
    print(f"  {found.num_quarantined_rows:,} quarantined rows; fingerprint {found.fingerprint[:16] or 'none'}")
    for note in found.notes:
        print(f"  note: {note}")


def print_rescored(found: RescoredSample) -> None:
    """How far stored scores and embeddings are from fp32."""
    print(f"{found.num_rows:,} rows scored again in fp32: {', '.join(found.compared)}")
    if found.max_score_difference is not None:
        print(
            f"  scores differ by {found.max_score_difference:.6f} at most; {found.num_near_ties} labels are near ties"
        )
    if found.min_cosine is not None:
        print(f"  least cosine of embeddings: {found.min_cosine:.6f}")


def print_wide(table: Table) -> None:
    """Print a table as wide as it has to be: a cut date or path is of no use in a pipe."""
    console = Console()
    wanted = Measurement.get(console, console.options.update(max_width=1_000), table).maximum
    Console(width=max(console.width, wanted)).print(table)
