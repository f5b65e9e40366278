"""The work on one prepared night, for `score` and `nightly`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jobs.cluster import ray_session

if TYPE_CHECKING:
    from jobs.profile import Scoring
    from pipeline.inference.prepare import PreparedRun


def run_night(
    plan: Callable[[], PreparedRun], run: PreparedRun, address: str | None, start_s: float, how: Scoring
) -> None:
    """Score what is left of a night and publish it; planned again if another run was at it since; `start_s`: its start.

    Raises:
        NightTakenError: another run is at it, took it over, or is at another night of the snapshot.
        FilesSkippedError, DriftError: it is published, without files that may be left out, or beyond `report.fail`.
    """
    from jobs.printing import print_run
    from jobs.published import finish_published
    from pipeline.inference.publish import DRIVER_ALONE, check_complete, publish_run
    from pipeline.inference.run import run_id_for
    from pipeline.output.lock import NightLock
    from pipeline.report.failures import noting_failures
    from pipeline.report.saved import check_drift, write_report

    session = ray_session(run.spec.compute, address) if run.plan.pending else None
    run_id, fresh, workers = run_id_for(run.ledger.run_date), [], DRIVER_ALONE
    with noting_failures(run.ledger, run_id, start_s), NightLock(run.ledger, run_id) as lock:
        run = run if lock.followed == run.lease else plan()
        if not (is_done := run.is_published):
            run.keep_models()
            if run.plan.pending:
                with session or ray_session(run.spec.compute, address) as pool:
                    fresh, workers = how(run, pool, run_id), pool
            lock.check_held()
            print_run(publish_run(run, fresh, run_id, start_s, workers))
    if is_done:
        print(f"done by another run meanwhile: night {run.ledger.run_date} of {run.ledger.table_uri}")
        return finish_published(run, start_s)
    check_drift(write_report(run.ledger, run.spec.report))  # the graver of the two remarks, should both be due
    return check_complete(run)
