"""`bertmill score SPEC [--date D]`: corpus and bundle -> one published night of a table."""

from __future__ import annotations

import time
from functools import partial

import typer

from jobs.night import run_night
from jobs.nights import parse_date
from jobs.profile import Profile, scoring
from jobs.published import finish_published
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, Today, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.inference.spec import ScoreSpec


def score(
    spec: SpecPath,
    date_: Today = None,
    set_: Overrides = None,
    address: Address = None,
    debug: Debug = False,
    profile: Profile = False,
) -> None:
    """Score a corpus with a bundle and publish it as one night of a Delta table."""
    with running("score", spec, debug, date_), stopping_on_sigterm():
        from pipeline.inference.prepare import prepare_run

        started_s = time.monotonic()
        plan = partial(prepare_run, load_spec(spec, ScoreSpec, set_ or ()), parse_date(date_), source=spec)
        run = plan()
        is_published = run.is_published
        if is_published:
            rows, night = run.plan.num_rows, run.ledger.run_date
            print(f"already done: night {night} of {run.ledger.table_uri} holds all {rows:,} rows of this corpus")
            finish_published(run, started_s)
            return
        run_night(plan, run, address, started_s, scoring(profile))


if __name__ == "__main__":
    typer.run(score)
