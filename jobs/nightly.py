"""`bertmill nightly SPEC --date D`: one scheduled night, or a range of them; does only what is new, and only once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from jobs.cluster import ray_session
from jobs.nights import Date, DryRun, Rescore, Until, nights_between
from jobs.session import Address, Debug, Overrides, SpecPath, guarded, preparing, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.inference.spec import ScoreSpec

if TYPE_CHECKING:
    from pipeline.inference.prepare import PreparedRun


def nightly(
    spec: SpecPath,
    date_: Date,
    until: Until = None,
    rescore: Rescore = False,
    dry_run: DryRun = False,
    set_: Overrides = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Score what is new for a night, and publish it; safe to run twice, at once, or after a crash."""
    with guarded(debug), stopping_on_sigterm():
        from pipeline.inference.estimate import explain_plan
        from pipeline.inference.prepare import prepare_run
        from pipeline.inference.publish import check_complete

        parsed = load_spec(spec, ScoreSpec, set_ or ())
        for night in nights_between(date_, until):
            with preparing():
                run = prepare_run(parsed, night, rescore)
                is_published = run.is_published
            if dry_run or is_published:
                print("\n".join(explain_plan(run)))
            else:
                _run_night(run, address)
            if not dry_run:
                check_complete(run)


def _run_night(run: PreparedRun, address: str | None) -> None:
    from jobs.printing import print_run
    from pipeline.inference.publish import publish_run
    from pipeline.inference.run import run_id_for, score_pending
    from pipeline.output.lock import NightLock

    run_id, started_s, fresh = run_id_for(run.ledger.run_date), time.monotonic(), []
    with NightLock(run.ledger.table_uri, run.ledger.scope, run_id, run.ledger.storage):
        if run.plan.pending:
            with ray_session(run.spec.compute, address) as pool:
                fresh = score_pending(run, pool, run_id)
        print_run(publish_run(run, fresh, run_id, started_s))


if __name__ == "__main__":
    typer.run(nightly)
