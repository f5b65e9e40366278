"""`bertmill jobs`, `bertmill logs ID`, `bertmill stop ID`: what was submitted to a cluster."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from jobs.remote.ends import describe_end, finish
from jobs.remote.options import AsJson, JobServerAddress, SubmissionId
from jobs.remote.server import connect
from jobs.remote.states import RemoteJob
from jobs.session import Debug, guarded
from pipeline.errors import ClusterLostError

_STOP_PATIENCE_S = 90


def list_jobs(address: JobServerAddress = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List what was submitted to a cluster, newest first."""
    with guarded(debug):
        jobs = sorted(connect(address).find(), key=lambda job: job.start_s or 0, reverse=True)
        if as_json:
            for job in jobs:
                print(json.dumps({**asdict(job), "exit_code": job.exit_code if job.is_over else None}))
        elif jobs:
            Console().print(_as_table(jobs))


def logs(submission_id: SubmissionId, address: JobServerAddress = None, debug: Debug = False) -> None:
    """Print a submitted job's log to its end, and leave with the job's exit status."""
    with guarded(debug):
        finish(connect(address), submission_id)


def stop(submission_id: SubmissionId, address: JobServerAddress = None, debug: Debug = False) -> None:
    """Stop a submitted job: what it has finished is kept, and the next attempt goes on from there."""
    with guarded(debug):
        server = connect(address)
        server.stop(submission_id)
        deadline_s = time.monotonic() + _STOP_PATIENCE_S
        while not (job := server.info(submission_id)).is_over:
            if time.monotonic() > deadline_s:
                raise ClusterLostError(f"{submission_id} has not stopped yet", "see `bertmill jobs`")
            time.sleep(0.5)
        print(describe_end(job))


def _as_table(jobs: list[RemoteJob]) -> Table:
    table = Table("job", "status", "exit", "started, UTC", "minutes")
    for job in jobs:
        start = datetime.fromtimestamp(job.start_s, UTC).strftime("%Y-%m-%d %H:%M") if job.start_s else ""
        minutes = f"{((job.end_s or time.time()) - job.start_s) / 60:.1f}" if job.start_s else ""
        table.add_row(job.submission_id, job.status, str(job.exit_code) if job.is_over else "", start, minutes)
    return table
