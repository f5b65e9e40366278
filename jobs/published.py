"""What is left to do for a night that is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.inference.prepare import PreparedRun


def finish_published(run: PreparedRun, started_s: float, dry_run: bool = False) -> None:
    """What is left of a published night: manifest and report; its run may have been stopped, or had nothing to do.

    Raises:
        NightTakenError: another run is at work on the night, and will write it, or on another of the snapshot.
        FilesSkippedError, DriftError: files were left out, as the spec allows; it is beyond `report.fail`.
    """
    from pipeline.inference.publish import check_complete, complete_manifest, lacks_manifest
    from pipeline.inference.run import run_id_for
    from pipeline.output.lock import NightLock
    from pipeline.report.saved import check_drift, complete_report

    if not dry_run and lacks_manifest(run):
        with NightLock(run.ledger, run_id := run_id_for(run.ledger.run_date)):
            complete_manifest(run, run_id, started_s)
        print("its manifest was missing; written now")
    check_drift(complete_report(run.ledger, run.spec.report, writes=not dry_run))  # the graver, should both be due
    check_complete(run)
