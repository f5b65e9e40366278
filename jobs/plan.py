"""`bertmill plan SPEC`: what `score` would do tonight, and why. Writes nothing, starts no Ray."""

from __future__ import annotations

import typer

from jobs.nights import parse_date
from jobs.session import Debug, Overrides, SpecPath, Today, guarded, preparing
from pipeline.config import load_spec
from pipeline.inference.spec import ScoreSpec


def plan(spec: SpecPath, date_: Today = None, set_: Overrides = None, debug: Debug = False) -> None:
    """Print what `score` would do, why, and an estimate; write nothing."""
    with guarded(debug):
        from pipeline.inference.estimate import estimate_work, explain_plan
        from pipeline.inference.prepare import prepare_run

        with preparing():
            run = prepare_run(load_spec(spec, ScoreSpec, set_ or ()), parse_date(date_))
            for line in explain_plan(run):
                print(line)
            if run.plan.pending:
                print(estimate_work(run).describe())


if __name__ == "__main__":
    typer.run(plan)
