"""What a submitted job is, and the exit status that its end stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import EXIT_INPUT, EXIT_RESUMABLE

_KILLED = (137, 143)  # a shell's word for SIGKILL and SIGTERM; Python's own is negative
_MENDABLE = ("RUNTIME_ENV_SETUP_FAILURE", "JOB_ENTRYPOINT_COMMAND_START_ERROR")


@dataclass(frozen=True)
class RemoteJob:
    """A job as the cluster's job server knows it; times in seconds since 1970, None where there is none yet."""

    submission_id: str
    status: str
    driver_exit_code: int | None = None
    error_type: str | None = None
    message: str = ""
    start_s: float | None = None
    end_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_code(self) -> int:
        """The driver's own exit status; 75 where it was stopped, killed or lost, 2 where it could not be set up."""
        code = self.driver_exit_code
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "FAILED" and code is not None and code > 0 and code not in _KILLED:
            return code
        return EXIT_INPUT if self.error_type in _MENDABLE else EXIT_RESUMABLE


def from_details(details: Any) -> RemoteJob:
    """A JobDetails of Ray's."""
    start_ms, end_ms = details.start_time, details.end_time
    return RemoteJob(
        submission_id=details.submission_id or details.job_id,
        status=details.status.value,
        driver_exit_code=details.driver_exit_code,
        error_type=getattr(details.error_type, "value", details.error_type),
        message=details.message or "",
        start_s=start_ms / 1000 if start_ms else None,
        end_s=end_ms / 1000 if end_ms else None,
        metadata=dict(details.metadata or {}),
    )
