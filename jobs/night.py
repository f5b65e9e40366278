"""The work on one prepared night, for `score` and `nightly`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cluster import ray_session

if TYPE_CHECKING:
    from jobs.profile import Scoring
    from pipeline.inference.prepare import PreparedRun


def run_night(run: PreparedRun, address: str | None, started_s: float, score: Scoring) -> None:
    """Score what is left of a night and publish it, unless another run is at it; `started_s` is the command's start.

    Raises:
        NightTakenError: another run is, or is at another night of the snapshot.
        FilesSkippedError, DriftError: it is published, without files that may be left out, or beyond `report.fail`.
    """
    from jobs.printing import print_run
    from pipeline.inference.publish import DRIVER_ALONE, check_complete, publish_run
    from pipeline.inference.run import run_id_for
    from pipeline.output.lock import NightLock
    from pipeline.report.failures import noting_failures
    from pipeline.report.saved import check_drift, write_report

    session = ray_session(run.spec.compute, address) if run.plan.pending else None
    run_id, fresh, workers = run_id_for(run.ledger.run_date), [], DRIVER_ALONE
    with noting_failures(run.ledger, run_id, started_s), NightLock(run.ledger, run_id):
        run.keep_models()
        if session is not None:
            with session as pool:
                fresh, workers = score(run, pool, run_id), pool
        print_run(publish_run(run, fresh, run_id, started_s, workers))
    summary = write_report(run.ledger, run.spec.report)
    check_drift(summary)  # the graver of the two remarks, should both be due
    check_complete(run)


def finish_published(run: PreparedRun, started_s: float, dry_run: bool = False) -> None:
    """What is left of a published night: its manifest and report, if its run was stopped before or had nothing to do.

    Raises:
        NightTakenError: another run is at work on the night, and will write it, or on another of the snapshot.
        FilesSkippedError: files were left out, as the spec allows.
        DriftError: its report said that it is beyond `report.fail`.
    """
    from pipeline.inference.publish import check_complete, complete_manifest, lacks_manifest
    from pipeline.inference.run import run_id_for
    from pipeline.output.lock import NightLock
    from pipeline.report.saved import check_drift, complete_report

    if not dry_run and lacks_manifest(run):
        with NightLock(run.ledger, run_id := run_id_for(run.ledger.run_date)):
            complete_manifest(run, run_id, started_s)
        print("its manifest was missing; written now")
    summary = complete_report(run.ledger, run.spec.report, writes=not dry_run)
    check_drift(summary)  # the graver of the two remarks, should both be due
    check_complete(run)
