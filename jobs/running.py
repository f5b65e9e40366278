"""Around a job that somebody waits for: its lines as JSON and its trace if asked for, and word of how it ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from jobs.json_lines import JsonLines
from jobs.notify import Ending, notify
from jobs.session import guarded
from pipeline.errors import BertmillError, Problem, SpecError
from pipeline.tracing import traced

FORMAT_VARIABLE = "BERTMILL_LOG_FORMAT"


@contextlib.contextmanager
def running(job: str, spec: str, debug: bool, night: str | None = None) -> Iterator[None]:
    """Errors as messages and exit codes, log lines in the format asked for, a trace, and a notification at the end."""
    with contextlib.ExitStack() as stack:
        if os.environ.get(FORMAT_VARIABLE) == "json":
            stack.enter_context(contextlib.redirect_stdout(JsonLines("stdout")))
            stack.enter_context(contextlib.redirect_stderr(JsonLines("stderr")))
        stack.enter_context(guarded(debug))
        _check_format()
        stack.enter_context(_notifying(job, spec, night))
        stack.enter_context(traced(job, job=job, spec=spec, night=night))
        yield


@contextlib.contextmanager
def _notifying(job: str, spec: str, night: str | None) -> Iterator[None]:
    started_s, code, message = time.monotonic(), 0, ""
    try:
        yield
    except BaseException as error:
        code, message = _exit_code(error), "" if isinstance(error, SystemExit) else str(error)
        raise
    finally:
        notify(Ending(job, spec, night, code, message, time.monotonic() - started_s))


def _exit_code(error: BaseException) -> int:
    match error:
        case BertmillError():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        case KeyboardInterrupt():
            return 130
    return 1


def _check_format() -> None:
    found = os.environ.get(FORMAT_VARIABLE) or "text"
    if found not in ("text", "json"):
        raise SpecError("environment", (Problem(FORMAT_VARIABLE, repr(found), "text or json"),))
