"""`bertmill duplicates SPEC --date D`: a night's embeddings -> groups of near-duplicate rows."""

from __future__ import annotations

import typer

from jobs.nights import Date, parse_date
from jobs.running import running
from jobs.session import Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.analysis.spec import DuplicatesSpec
from pipeline.config import load_spec


def duplicates(spec: SpecPath, date_: Date, set_: Overrides = None, debug: Debug = False) -> None:
    """Find groups of near-duplicate rows in a published night, by its embeddings."""
    with running("duplicates", spec, debug, date_), stopping_on_sigterm():
        from jobs.analysis_printing import print_analysis
        from pipeline.analysis.run import analyse_duplicates

        done = analyse_duplicates(load_spec(spec, DuplicatesSpec, set_ or ()), parse_date(date_))
        print_analysis(done, "{num_members:,} of {num_rows:,} rows in {num_groups:,} groups of near-duplicates")


if __name__ == "__main__":
    typer.run(duplicates)
