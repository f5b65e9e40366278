"""jobs: one thin entry point each; `cli` gathers them as `bertmill JOB`, and `python -m jobs.JOB` runs one alone."""
