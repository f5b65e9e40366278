"""`bertmill learning-curve SPEC`: a fine-tuned encoder against simpler methods on growing parts of a training set."""

from __future__ import annotations

import typer

from jobs.cells import raise_failures, run_cells
from jobs.cluster import ray_session
from jobs.session import Address, Debug, Overrides, SpecPath, guarded, preparing
from pipeline.config import load_spec
from pipeline.studies.spec import CurveSpec


def learning_curve(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Compare fine-tuning with simpler methods on growing parts of a training set."""
    with guarded(debug):
        from pipeline.studies.curve import prepare_curve
        from pipeline.studies.curve_report import write_curve

        parsed = load_spec(spec, CurveSpec, set_ or ())
        with preparing():
            curve = prepare_curve(parsed, spec)
            pending = [cell for cell in curve.cells if curve.store.read(cell.fingerprint) is None]
        print(f"{len(curve.cells)} cells, of which {len(curve.cells) - len(pending)} are already done")
        failures = {}
        if pending:
            with ray_session(parsed.compute, address) as pool:
                failures = run_cells("learning curve", pending, pool, parsed.cpus_per_cell)
        print(write_curve(curve))
        raise_failures(failures, len(curve.cells))
        print(f"written to {parsed.output}: curve.parquet, curve.md, curve.png")


if __name__ == "__main__":
    typer.run(learning_curve)
