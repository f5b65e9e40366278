"""`python -m jobs.start_up SPEC --rounds 3`: what a night costs before its first row is scored, step by step."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Annotated

import typer

from jobs.nights import parse_date
from jobs.session import SpecPath, Today
from pipeline.config import load_spec
from pipeline.inference.spec import ScoreSpec
from pipeline.studies.benchmark.start_up import Commands, describe_start

COMMANDS = Commands(
    score=(sys.executable, "-m", "jobs.start_up", "--once"), plan=(sys.executable, "-m", "jobs.cli", "plan")
)


def start_up(
    spec: SpecPath,
    date_: Today = None,
    rounds: Annotated[int, typer.Option(help="nights to score anew, each of a table of its own", min=1)] = 3,
    once: Annotated[bool, typer.Option("--once", help="score the spec's night; print moments as JSON")] = False,
) -> None:
    """Print what each step takes, the median over some nights; each runs as a command of its own."""
    parsed, night = load_spec(spec, ScoreSpec), parse_date(date_)
    if once:
        print(json.dumps(_moments(parsed, night)))
        return
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} when it began\n", flush=True)
    print(describe_start(parsed, night, COMMANDS, rounds))


def _moments(spec: ScoreSpec, night: str) -> dict[str, float]:
    """Score a night as `score` does: the fields of `pipeline.studies.benchmark.start_up.Moments`."""
    from jobs.cluster import ray_session
    from pipeline.inference.prepare import prepare_run
    from pipeline.inference.run import run_id_for, score_pending

    moments = {"imported_s": time.time()}
    run = prepare_run(spec, night)
    moments["planned_s"] = time.time()
    with ray_session(run.spec.compute, None) as pool:
        moments["ray_s"] = time.time()
        records = score_pending(run, pool, run_id_for(run.ledger.run_date))
    first = min(records, key=lambda record: record.usage.ended_s)
    moments["first_shard_began_s"] = first.usage.ended_s - first.elapsed_s
    moments["first_shard_ended_s"] = first.usage.ended_s
    return moments


if __name__ == "__main__":
    typer.run(start_up)
