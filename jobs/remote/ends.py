"""Following a submitted job from the command line, and ending with its exit status."""

from __future__ import annotations

import sys

from jobs.remote.follow import follow_job
from jobs.remote.server import JobServer
from jobs.remote.states import RemoteJob


def finish(server: JobServer, submission_id: str) -> None:
    """Print the job's log to its end, say how it ended, and leave with its exit status."""
    job = follow_job(server, submission_id, _print_now)
    print(describe_end(job), file=sys.stderr)
    raise SystemExit(job.exit_code)


def describe_end(job: RemoteJob) -> str:
    """One line: how a job ended, and what the exit status is."""
    if job.status == "SUCCEEDED":
        return f"{job.submission_id} succeeded"
    reason = "" if job.driver_exit_code is not None or not job.message else f": {job.message[:2000]}"
    return f"{job.submission_id} {job.status.lower()}, exit status {job.exit_code}{reason}"


def _print_now(text: str) -> None:
    for line in text.splitlines(keepends=True):  # each may be a JSON object
        sys.stdout.write(line)
    sys.stdout.flush()
