"""`bertmill topics SPEC --date D`: a night's embeddings and texts -> topics, named by their words."""

from __future__ import annotations

import typer

from jobs.nights import Date, parse_date
from jobs.running import running
from jobs.session import Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.analysis.spec import TopicsSpec
from pipeline.config import load_spec


def topics(spec: SpecPath, date_: Date, set_: Overrides = None, debug: Debug = False) -> None:
    """Cut a published night into topics by its embeddings, and name them by their words."""
    with running("topics", spec, debug, date_), stopping_on_sigterm():
        from jobs.analysis_printing import print_analysis
        from pipeline.analysis.run import analyse_topics

        done = analyse_topics(load_spec(spec, TopicsSpec, set_ or ()), parse_date(date_))
        print_analysis(done, "{num_rows:,} rows in {num_topics_found:,} topics")


if __name__ == "__main__":
    typer.run(topics)
