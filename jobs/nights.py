"""Nights on the command line: dates, ranges of them, and the work on one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cluster import ray_session
from pipeline.errors import Problem, SpecError

if TYPE_CHECKING:
    from pipeline.inference.prepare import PreparedRun

Date = Annotated[str, typer.Option("--date", help="the night, YYYY-MM-DD, a plain calendar date; always explicit")]
Until = Annotated[str | None, typer.Option(help="backfill: every night from --date to this one")]
Rescore = Annotated[bool, typer.Option(help="score everything again, whatever is done")]
DryRun = Annotated[bool, typer.Option(help="say what would be done; write nothing")]


def parse_date(text: str | None, option: str = "--date") -> str:
    """The night as YYYY-MM-DD; today in UTC if not given.

    Raises:
        SpecError: it is no date.
    """
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise SpecError("command line", (Problem(option, repr(text), "a date like 2026-11-23"),)) from None


def nights_between(first: str, last: str | None) -> list[str]:
    """Every night from the first to the last, both included; the first alone if there is no last.

    Raises:
        SpecError: one is no date, or the last lies before the first.
    """
    start, end = parse_date(first), parse_date(last or first, "--until")
    if end < start:
        raise SpecError("command line", (Problem("--until", repr(last), f"{start} or later"),))
    days = (date.fromisoformat(end) - date.fromisoformat(start)).days
    return [(date.fromisoformat(start) + timedelta(days=day)).isoformat() for day in range(days + 1)]


def run_night(run: PreparedRun, address: str | None, started_s: float) -> None:
    """Score what is left of a night and publish it, unless another run is at it; `started_s` is the command's start.

    Raises:
        NightTakenError: another run is.
        FilesSkippedError: it is published, but for files that the spec allows to leave out.
    """
    from jobs.printing import print_run
    from pipeline.inference.publish import check_complete, publish_run
    from pipeline.inference.run import run_id_for, score_pending
    from pipeline.output.lock import NightLock

    run_id, fresh = run_id_for(run.ledger.run_date), []
    with NightLock(run.ledger.table_uri, run.ledger.scope, run_id, run.ledger.storage):
        if run.plan.pending:
            with ray_session(run.spec.compute, address) as pool:
                fresh = score_pending(run, pool, run_id)
        print_run(publish_run(run, fresh, run_id, started_s))
    check_complete(run)
