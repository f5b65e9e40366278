"""`bertmill table`: its subcommands."""

from __future__ import annotations

import typer

from jobs.table.care import compact, vacuum
from jobs.table.compare import beside, diff
from jobs.table.look import files, history, nights
from jobs.table.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a published table, compare its nights, check them, keep them tidy.",
)
for _command in (nights, files, history, diff, beside, verify, vacuum, compact):
    app.command()(_command)
