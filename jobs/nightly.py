"""`bertmill nightly SPEC --date D`: one scheduled night, or a range of them; does only what is new, and only once."""

from __future__ import annotations

import time
from functools import partial

import typer

from jobs.night import run_night
from jobs.nights import Date, DryRun, Remark, Rescore, Until, gravest, nights_between
from jobs.profile import Profile, scoring
from jobs.published import finish_published
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.errors import DriftError, FilesSkippedError, NightTakenError
from pipeline.inference.spec import ScoreSpec


def nightly(
    spec: SpecPath,
    date_: Date,
    until: Until = None,
    rescore: Rescore = False,
    dry_run: DryRun = False,
    set_: Overrides = None,
    address: Address = None,
    debug: Debug = False,
    profile: Profile = False,
) -> None:
    """Score what is new for a night, and publish it; safe to run twice, at once, or after a crash."""
    with running("nightly", spec, debug, date_), stopping_on_sigterm():
        from pipeline.inference.estimate import explain_plan
        from pipeline.inference.prepare import prepare_run

        parsed, remarks = load_spec(spec, ScoreSpec, set_ or ()), dict[str, Remark]()
        nights = nights_between(date_, until)
        for night in nights:
            started_s = time.monotonic()
            plan = partial(prepare_run, parsed, night, rescore, spec)
            run = plan()
            is_published = run.is_published
            try:
                if dry_run or is_published:
                    print("\n".join(explain_plan(run)))
                if is_published:
                    finish_published(run, started_s, dry_run)
                elif not dry_run:
                    run_night(plan, run, address, started_s, scoring(profile))
            except (FilesSkippedError, DriftError, NightTakenError) as error:
                remarks[night] = error  # published, or another run's to publish: the range goes on, and ends so
        if remarks:
            raise gravest(remarks, len(nights))


if __name__ == "__main__":
    typer.run(nightly)
