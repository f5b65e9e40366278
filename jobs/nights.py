"""Nights on the command line: dates, and ranges of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from pipeline.errors import DriftError, FilesSkippedError, NightsTakenError, NightTakenError, Problem, SpecError

Date = Annotated[str, typer.Option("--date", help="the night, YYYY-MM-DD, a plain calendar date; always explicit")]
Until = Annotated[str | None, typer.Option(help="backfill: every night from --date to this one")]
Rescore = Annotated[bool, typer.Option(help="score everything again, whatever is done")]
DryRun = Annotated[bool, typer.Option(help="say what would be done; write nothing")]

Remark = FilesSkippedError | DriftError | NightTakenError


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


def gravest(remarks: dict[str, Remark], num_nights: int) -> Remark | NightsTakenError:
    """What a command for so many nights ends with, of what was said of some; a range is done when each of them is."""
    taken = {night: remark for night, remark in remarks.items() if isinstance(remark, NightTakenError)}
    if taken and num_nights > 1:
        first = next(iter(taken.values())).message
        return NightsTakenError(
            f"{len(taken)} of {num_nights} nights are left to other runs: {', '.join(taken)}\n{first}",
            "when those have ended, run the command again for these nights",
        )
    return max(reversed(remarks.values()), key=lambda remark: remark.exit_code)  # drift is graver than files left out
