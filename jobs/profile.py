"""`--profile`: a torch trace of one worker's first shard, and Ray's timeline, beside the night's manifests."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.schema import PROFILES, RUN_DATE
from pipeline.uris import join_uri

if TYPE_CHECKING:
    from pipeline.config import PoolOptions
    from pipeline.inference.prepare import PreparedRun
    from pipeline.output.ledger import DoneRecord

    Scoring = Callable[[PreparedRun, PoolOptions, str], list[DoneRecord]]

Profile = Annotated[bool, typer.Option("--profile", help="write a torch trace of a shard and Ray's timeline")]


def scoring(is_profiled: bool) -> Scoring:
    """How a night is scored; called before Ray starts, so that a local one notes what its workers do."""
    from pipeline.inference.run import score_pending

    if not is_profiled:
        return score_pending
    os.environ.setdefault("RAY_PROFILING", "1")
    return _score_profiled


def _score_profiled(run: PreparedRun, pool: PoolOptions, run_id: str) -> list[DoneRecord]:
    """What cannot be had of a profile is told, and changes nothing."""
    from pipeline.inference.run import score_pending

    folder = join_uri(run.ledger.table_uri, PROFILES, f"{RUN_DATE}={run.ledger.run_date}")
    trace_uri = join_uri(folder, f"{run_id}.torch.json.gz")
    records = score_pending(run, pool, run_id, trace_uri)
    wrote = any(item.uri.endswith(f"{run_id}.torch.json.gz") for item in run.ledger.storage.list_objects(folder))
    print(f"torch trace: {trace_uri if wrote else 'none was written; the workers may say why in their logs'}")
    print(f"Ray timeline: {_write_timeline(run, join_uri(folder, f'{run_id}.ray.json.gz'))}")
    return records


def _write_timeline(run: PreparedRun, uri: str) -> str:
    """Where it stands, or why it is not there."""
    import ray

    try:
        events = ray.timeline()
    except Exception as error:  # Ray asks its own services, and nothing here depends on the answer
        return f"none, Ray does not tell: {error}"
    if not events:
        return "none, the cluster notes nothing; start it with RAY_PROFILING=1"
    run.ledger.storage.write_bytes(uri, gzip.compress(json.dumps(events).encode()))
    return uri
