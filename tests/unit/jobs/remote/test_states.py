from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jobs.remote.ends import describe_end
from jobs.remote.states import RemoteJob, from_details


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 75])
def test_the_exit_status_is_the_driver_s_own(code: int) -> None:
    assert RemoteJob("a", "FAILED", driver_exit_code=code).exit_code == code


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0),
        ({"status": "STOPPED"}, 75),
        ({"status": "FAILED", "driver_exit_code": -9}, 75),
        ({"status": "FAILED", "driver_exit_code": 137}, 75),
        ({"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, 75),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE"}, 2),
    ],
)
def test_stopped_killed_and_lost_are_resumable_and_a_bad_set_up_is_not(fields: dict[str, Any], expected: int) -> None:
    assert RemoteJob("a", **fields).exit_code == expected


def test_ray_s_details_become_seconds_and_words() -> None:
    details = SimpleNamespace(
        submission_id="a-1",
        job_id=None,
        status=SimpleNamespace(value="FAILED"),
        driver_exit_code=None,
        error_type=SimpleNamespace(value="RUNTIME_ENV_SETUP_FAILURE"),
        message="no such package",
        start_time=1_500,
        end_time=None,
        metadata=None,
    )
    job = from_details(details)
    assert (job.start_s, job.end_s, job.is_over) == (1.5, None, True)
    assert describe_end(job) == "a-1 failed, exit status 2: no such package"


def test_a_driver_s_own_failure_is_told_by_its_log_alone() -> None:
    failed = RemoteJob("a-1", "FAILED", driver_exit_code=3, message="last available logs: ...")
    assert describe_end(failed) == "a-1 failed, exit status 3"
