"""`python -m jobs.start_up SPEC --date DATE`: scores a night as `score` does, and tells when it had done what."""

from __future__ import annotations

import json
import time

import typer

from jobs.session import SpecPath, Today


def start_up(spec: SpecPath, date_: Today = None) -> None:
    """Print, as JSON on the last line, the moments of `pipeline.studies.benchmark.start_up.Moments`."""
    from jobs.cluster import ray_session
    from jobs.nights import parse_date
    from pipeline.config import load_spec
    from pipeline.inference.prepare import prepare_run
    from pipeline.inference.run import run_id_for, score_pending
    from pipeline.inference.spec import ScoreSpec

    moments = {"imported_s": time.time()}
    run = prepare_run(load_spec(spec, ScoreSpec), parse_date(date_))
    moments["planned_s"] = time.time()
    with ray_session(run.spec.compute, None) as pool:
        moments["ray_s"] = time.time()
        records = score_pending(run, pool, run_id_for(run.ledger.run_date))
    first = min(records, key=lambda record: record.usage.ended_s)
    moments["first_shard_began_s"] = first.usage.ended_s - first.elapsed_s
    moments["first_shard_ended_s"] = first.usage.ended_s
    print(json.dumps(moments))


if __name__ == "__main__":
    typer.run(start_up)
