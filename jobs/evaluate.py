"""`bertmill evaluate SPEC`: labelled Parquet and a bundle -> metrics and a confusion matrix."""

from __future__ import annotations

import json

import typer

from jobs.cluster import ray_session
from jobs.evaluation_printing import evaluation_as_json, print_evaluation
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath
from pipeline.config import load_spec
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage


def evaluate(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Measure a bundle, or a cascade of two, on labelled Parquet."""
    with running("evaluate", spec, debug):
        from pipeline.inference.cascade_trial import prepare_trial
        from pipeline.inference.evaluate import prepare_evaluation
        from pipeline.inference.retrieval import prepare_retrieval

        parsed = load_spec(spec, EvaluateSpec, set_ or ())
        prepare = prepare_trial if parsed.cascade else prepare_evaluation
        run = prepare_retrieval(parsed) if parsed.retrieval else prepare(parsed, spec)
        with ray_session(parsed.compute, address) as pool:
            result = run.measure(pool)
        print_evaluation(result, run.total)
        if parsed.report is not None:
            written = json.dumps(evaluation_as_json(result), indent=2)
            Storage(parsed.storage).write_bytes(parsed.report, written.encode())
            print(f"written to {parsed.report}")


if __name__ == "__main__":
    typer.run(evaluate)
