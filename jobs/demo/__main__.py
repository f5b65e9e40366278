"""`python -m jobs.demo`."""

import typer

from jobs.demo.job import demo

typer.run(demo)
