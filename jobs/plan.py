"""`bertmill plan SPEC`: what `score` would do tonight, and why. Writes nothing, starts no Ray."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from jobs.cluster import count_local_gpus
from jobs.nights import parse_date
from jobs.pool import Resources, choose_pool
from jobs.session import Address, Debug, Overrides, SpecPath, Today, guarded
from pipeline.config import ComputeConfig, PoolOptions, load_spec
from pipeline.inference.spec import ScoreSpec

Sample = Annotated[
    bool, typer.Option("--sample/--no-sample", help="estimate tokens, time and cost from a sample of the rows")
]

Probe = Annotated[bool, typer.Option("--probe", help="measure the pace here and now, whatever a night or plan found")]


def plan(
    spec: SpecPath,
    date_: Today = None,
    sample: Sample = True,
    probe: Probe = False,
    set_: Overrides = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Print what `score` would do, why, and an estimate; write nothing."""
    with guarded(debug):
        started_s = time.monotonic()
        from pipeline.inference.estimate import estimate_work, explain_plan
        from pipeline.inference.prepare import prepare_run

        run = prepare_run(load_spec(spec, ScoreSpec, set_ or ()), parse_date(date_), source=spec)
        for line in explain_plan(run):
            print(line)
        if sample and run.plan.pending:
            pool = _local_pool(run.spec.compute, address)
            before_s = time.monotonic() - started_s
            print("\n".join(estimate_work(run, pool, before_s, probes_anew=probe).describe()))


def _local_pool(compute: ComputeConfig, address: str | None) -> PoolOptions | None:
    """The pool that a local Ray would give, without starting it; None where a cluster is used."""
    if address is not None or os.environ.get("RAY_ADDRESS"):
        return None
    return choose_pool(compute, Resources(os.cpu_count() or 1, count_local_gpus(), is_local=True))


if __name__ == "__main__":
    typer.run(plan)
