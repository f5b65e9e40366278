"""A Dagster asset: one partition a night through `bertmill submit`, with the partition's key as the night."""

from __future__ import annotations

import os
import subprocess

import dagster as dg

SPEC = os.environ.get("BERTMILL_SPEC", "/etc/bertmill/nightly.yaml")
LEFT_OUT, FINAL = 6, (2, 3, 4, 5, 8)


def command(night: str) -> list[str]:
    """What a materialisation runs; address and token are in the environment (RAY_API_SERVER_ADDRESS, RAY_AUTH_...)."""
    return ["bertmill", "submit", "nightly", SPEC, "--date", night]


def score_night(night: str) -> bool:
    """Submit and follow; tell Dagster whether another try can help. Returns whether files were left out."""
    code = subprocess.run(command(night), check=False).returncode
    if code not in (0, LEFT_OUT):
        raise dg.Failure(f"exit status {code}", allow_retries=code not in FINAL)
    return code == LEFT_OUT


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-11-23", end_offset=1),
    retry_policy=dg.RetryPolicy(max_retries=5, delay=300),
)
def scored_night(context) -> dg.MaterializeResult:  # Dagster reads the annotation of `context` itself
    """A published night of the scored corpus."""
    return dg.MaterializeResult(metadata={"files_left_out": score_night(context.partition_key)})


@dg.schedule(cron_schedule="30 1 * * *", job=dg.define_asset_job("bertmill_nightly_job", [scored_night]))
def every_night(context) -> dg.RunRequest:
    """The night is the day, in UTC, for which the run was scheduled."""
    return dg.RunRequest(partition_key=context.scheduled_execution_time.strftime("%Y-%m-%d"))


defs = dg.Definitions(assets=[scored_night], schedules=[every_night])
