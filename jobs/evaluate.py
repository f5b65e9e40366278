"""`bertmill evaluate SPEC`: labelled Parquet and a bundle -> metrics and a confusion matrix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from jobs.cluster import ray_session
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, preparing
from pipeline.config import load_spec
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.tasks.base import Confusion, Evaluation


def evaluate(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Measure a bundle on labelled Parquet."""
    with running("evaluate", spec, debug):
        from pipeline.inference.evaluate import prepare_evaluation
        from pipeline.inference.retrieval import prepare_retrieval

        parsed = load_spec(spec, EvaluateSpec, set_ or ())
        prepare = prepare_retrieval if parsed.retrieval else prepare_evaluation
        with preparing():
            run = prepare(parsed)
        with ray_session(parsed.compute, address) as pool:
            result = run.measure(pool)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        print(f"{result.num_rows:,} of {run.total}: {figures}")
        if result.confusion is not None and len(result.confusion.labels) <= 20:
            Console().print(_confusion_table(result.confusion))
        if parsed.report is not None:
            Storage(parsed.storage).write_bytes(parsed.report, json.dumps(_as_json(result), indent=2).encode())
            print(f"written to {parsed.report}")


def _confusion_table(confusion: Confusion) -> Table:
    table = Table("true \\ predicted", *map(Column, map(Text, confusion.labels)))
    for label, counts in zip(confusion.labels, confusion.counts.tolist(), strict=True):
        table.add_row(Text(label), *(f"{count:,}" for count in counts))
    return table


def _as_json(result: Evaluation) -> dict[str, object]:
    confusion = result.confusion
    matrix = {"labels": confusion.labels, "counts": confusion.counts.tolist()} if confusion else None
    return {"num_rows": result.num_rows, "metrics": result.metrics, "confusion": matrix}


if __name__ == "__main__":
    typer.run(evaluate)
