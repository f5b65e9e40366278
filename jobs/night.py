"""The work on one prepared night, for `score` and `nightly`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.cluster import check_session, ray_session

if TYPE_CHECKING:
    from pipeline.inference.prepare import PreparedRun


def run_night(run: PreparedRun, address: str | None, started_s: float) -> None:
    """Score what is left of a night and publish it, unless another run is at it; `started_s` is the command's start.

    Raises:
        NightTakenError: another run is.
        FilesSkippedError: it is published, but for files that the spec allows to leave out.
    """
    from jobs.printing import print_run
    from pipeline.inference.publish import check_complete, publish_run
    from pipeline.inference.run import run_id_for, score_pending
    from pipeline.output.lock import NightLock

    if run.plan.pending:
        check_session(run.spec.compute, address)
    run_id, fresh = run_id_for(run.ledger.run_date), []
    with NightLock(run.ledger.table_uri, run.ledger.scope, run_id, run.ledger.storage):
        if run.plan.pending:
            with ray_session(run.spec.compute, address) as pool:
                fresh = score_pending(run, pool, run_id)
        print_run(publish_run(run, fresh, run_id, started_s))
    check_complete(run)
