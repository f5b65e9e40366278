"""The `bertmill` command: every job as a subcommand."""

from __future__ import annotations

import typer

from jobs.benchmark import benchmark
from jobs.bundle import bundle
from jobs.demo.job import demo
from jobs.duplicates import duplicates
from jobs.evaluate import evaluate
from jobs.export import export
from jobs.finetune import finetune
from jobs.history import history
from jobs.index import index
from jobs.learning_curve import learning_curve
from jobs.models.app import app as models_app
from jobs.nightly import nightly
from jobs.plan import plan
from jobs.pretrain import pretrain
from jobs.remote.look import list_jobs, logs, stop
from jobs.remote.submit import submit
from jobs.report import report
from jobs.schema import schema
from jobs.score import score
from jobs.search import search
from jobs.session import Version
from jobs.suite import suite
from jobs.table.app import app as table_app
from jobs.topics import topics
from jobs.tune import tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune BERT-family encoders and score whole Parquet corpora, every row exactly once.",
)
for _job in (finetune, pretrain, bundle, evaluate, score, nightly, report, history, export, plan):
    app.command()(_job)
for _analysis in (duplicates, topics, index, search):
    app.command()(_analysis)
for _other in (learning_curve, suite, tune, benchmark, schema, submit, logs, stop, demo):
    app.command()(_other)
app.command("jobs")(list_jobs)
app.add_typer(table_app, name="table")
app.add_typer(models_app, name="models")


@app.callback()
def _bertmill(version: Version = False) -> None: ...


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
