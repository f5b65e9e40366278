"""`bertmill suite SPEC`: a list of trainings, each measured on its own test rows, in one table."""

from __future__ import annotations

import typer

from jobs.cells import Study, finish_cells
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.studies.spec import SuiteSpec


def suite(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Train and measure a list of runs with several seeds, and put them into one table."""
    with running("suite", spec, debug), stopping_on_sigterm():
        from pipeline.studies.suite_checks import prepare_suite
        from pipeline.studies.suite_report import write_suite

        parsed = load_spec(spec, SuiteSpec, set_ or ())
        prepared = prepare_suite(parsed, spec)
        cells = [(cell, cell.store.read(cell.fingerprint) is not None) for cell in prepared.cells]
        study = Study("suite", cells, parsed.compute, address, parsed.cpus_per_run)
        finish_cells(study, lambda: write_suite(prepared))
        print(f"written to {parsed.output}: suite.parquet, suite.md")


if __name__ == "__main__":
    typer.run(suite)
