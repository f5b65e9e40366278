"""`bertmill learning-curve SPEC`: a fine-tuned encoder against simpler methods on growing parts of a training set."""

from __future__ import annotations

import typer

from jobs.cells import Study, finish_cells
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.studies.spec import CurveSpec


def learning_curve(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Compare fine-tuning with simpler methods on growing parts of a training set."""
    with running("learning-curve", spec, debug), stopping_on_sigterm():
        from pipeline.studies.curve import prepare_curve
        from pipeline.studies.curve_report import write_curve

        parsed = load_spec(spec, CurveSpec, set_ or ())
        curve = prepare_curve(parsed, spec)
        cells = [(cell, curve.store.read(cell.fingerprint) is not None) for cell in curve.cells]
        study = Study("learning curve", cells, parsed.compute, address, parsed.cpus_per_cell)
        finish_cells(study, lambda: write_curve(curve))
        print(f"written to {parsed.output}: curve.parquet, curve.md, curve.png")


if __name__ == "__main__":
    typer.run(learning_curve)
