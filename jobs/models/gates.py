"""The gates of a promotion, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from pipeline.errors import Problem, SpecError

On = Annotated[str | None, typer.Option("--on", help="gates: labelled Parquet to measure on")]
Metric = Annotated[str | None, typer.Option("--metric", help="gate: a figure not below the present version's")]
Allowance = Annotated[float, typer.Option("--allowance", min=0, help="by so much it may be below")]
Parity = Annotated[int, typer.Option("--parity", min=0, help="gate: so many rows as fp32 has them")]
LatencyMs = Annotated[float | None, typer.Option("--latency-ms", min=0, help="gate: 95 % of rows alone take less")]
Slowdown = Annotated[
    float | None, typer.Option("--slowdown", min=0, help="gate: slower than the present by this share")
]
Label = Annotated[str | None, typer.Option("--label", help="target column; default: the task's")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="where a column has another name: text=body")]


@dataclass(frozen=True)
class Gates:
    """What is asked of a version before an alias names it."""

    on: str | None
    metric: str | None
    allowance: float
    parity: int
    latency_ms: float | None
    slowdown: float | None
    label: str | None
    inputs: Sequence[str]
    endpoint_url: str | None

    def __post_init__(self) -> None:
        asked = (self.metric, self.parity or None, self.latency_ms, self.slowdown)
        if (self.on is None) == any(gate is not None for gate in asked):
            found = "is missing" if self.on is None else "is given, and no gate"
            remedy = "--on URI, and --metric, --parity or the like"
            problem = Problem("--on", found, "labelled rows beside a gate", remedy)
            raise SpecError("command line", (problem,))
        for option, is_given, needed, value in (
            ("--allowance", bool(self.allowance), "--metric", self.metric),
            ("--label", self.label is not None, "--on", self.on),
            ("--input", bool(self.inputs), "--on", self.on),
        ):
            if is_given and value is None:  # a promotion must not look as if it had been gated
                remedy = f"add {needed}, or leave {option} out"
                found = f"is given, and no {needed}"
                raise SpecError("command line", (Problem(option, found, f"{needed} beside it", remedy),))
