"""`bertmill models`: its subcommands."""

from __future__ import annotations

import typer

from jobs.models.look import list_models, show, trace
from jobs.models.move import promote, rollback
from jobs.models.publish import publish
from jobs.models.push import push

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keep versions of models in a registry, and say which one is in use.",
)
for _command in (publish, promote, rollback, show, trace, push):
    app.command()(_command)
app.command("list")(list_models)
