"""The gates of a promotion, as the command line names them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from pipeline.config import StorageConfig
from pipeline.errors import Problem, SpecError
from pipeline.registry.versions import Version

On = Annotated[str | None, typer.Option("--on", help="gates: labelled Parquet to measure on")]
Metric = Annotated[str | None, typer.Option("--metric", help="gate: a figure not below the present version's")]
Allowance = Annotated[float, typer.Option("--allowance", min=0, help="by so much it may be below")]
Parity = Annotated[int, typer.Option("--parity", min=0, help="gate: so many rows as fp32 has them")]
Label = Annotated[str | None, typer.Option("--label", help="target column; default: the task's")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="where a column has another name: text=body")]


@dataclass(frozen=True)
class Gates:
    """What is asked of a version before an alias names it."""

    on: str | None
    metric: str | None
    allowance: float
    parity: int
    label: str | None
    inputs: Mapping[str, str]
    endpoint_url: str | None

    def __post_init__(self) -> None:
        if (self.on is None) == (self.metric is not None or self.parity > 0):
            found = "is missing" if self.on is None else "is given, and no gate"
            problem = Problem("--on", found, "labelled rows beside a gate", "--on URI --metric NAME, or --parity N")
            raise SpecError("command line", (problem,))


def check_gates(gates: Gates, version: Version, present: Version | None) -> list[str]:
    """What was found, one line for each gate.

    Raises:
        GateError: one was not passed.
    """
    if gates.on is None:
        return []
    from pipeline.inference.gates import LabelledRows, MetricGate, ParityGate

    store, threads = StorageConfig(endpoint_url=gates.endpoint_url), os.cpu_count() or 1
    rows = LabelledRows(gates.on, store, gates.label, gates.inputs, threads)
    uri = present.uri if present else None
    found = [MetricGate(gates.metric, gates.allowance).check(version.uri, uri, rows)] if gates.metric else []
    return found + ([ParityGate(gates.parity).check(version.uri, rows)] if gates.parity else [])
