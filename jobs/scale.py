"""`python -m jobs.scale`: what planning costs the driver at a million files. No part of the command line."""

from __future__ import annotations

from typing import Annotated

import typer


def scale(files: Annotated[int, typer.Option(help="files of the largest case", min=100)] = 1_000_000) -> None:
    """Plan made-up corpora, each in a process of its own, and print seconds and memory."""
    from pipeline.studies.scale import measure_alone, scale_table, usual_cases

    print(scale_table(list(measure_alone(usual_cases(files)))))


if __name__ == "__main__":
    typer.run(scale)
