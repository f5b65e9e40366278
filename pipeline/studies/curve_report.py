"""Records of a learning curve -> curve.parquet, curve.md and curve.png."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import pyarrow as pa

from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.curve import CurvePoint, PreparedCurve
from pipeline.studies.tables import markdown_table, spread
from pipeline.uris import join_uri

_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("fraction", pa.float64()),
        ("num_rows", pa.int64()),
        ("seed", pa.int64()),
        ("accuracy", pa.float64()),
        ("macro_f1", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
_NOTE = (
    "Mean ± sample standard deviation over seeds, on the whole test set. A seed draws the subset, all weights and the "
    "folds; where all rows are taken, methods without random weights vary by their folds only. "
    "Seconds are wall time of a cell on its share of the machine."
)


def read_points(curve: PreparedCurve) -> list[CurvePoint]:
    """The finished cells of the spec, in its order of methods, then by fraction and seed."""
    store, methods = curve.store, curve.spec.methods
    found = [point for cell in curve.cells if (point := store.read(cell.fingerprint)) is not None]
    return sorted(found, key=lambda point: (methods.index(point.method), point.fraction, point.seed))


def write_curve(curve: PreparedCurve) -> str:
    """Write what is known so far.

    Returns:
        The Markdown; empty if no cell is finished, and then nothing is written.
    """
    from pipeline.studies.plot import draw_curve

    points = read_points(curve)
    if not points:
        return ""
    storage, output = Storage(curve.spec.storage), curve.spec.output
    text = describe_curve(points, len(curve.cells))
    table = pa.Table.from_pylist([asdict(point) for point in points], schema=_SCHEMA)
    write_parquet(table, join_uri(output, "curve.parquet"), {}, storage)
    storage.write_bytes(join_uri(output, "curve.md"), text.encode())
    storage.write_bytes(join_uri(output, "curve.png"), draw_curve(points))
    return text


def describe_curve(points: Sequence[CurvePoint], num_cells: int) -> str:
    """Accuracy, macro F1 and seconds: a table each, methods down and fractions across."""
    parts = [
        f"## Accuracy\n\n{_table(points, lambda point: point.accuracy, 3)}",
        f"## Macro F1\n\n{_table(points, lambda point: point.macro_f1, 3)}",
        f"## Seconds\n\n{_table(points, lambda point: point.seconds, 0)}",
        f"{_NOTE}\n",
    ]
    if len(points) < num_cells:
        parts.append(f"{num_cells - len(points)} of {num_cells} cells are missing.\n")
    return "\n".join(parts)


def _table(points: Sequence[CurvePoint], figure: Callable[[CurvePoint], float], digits: int) -> str:
    methods = list(dict.fromkeys(point.method for point in points))
    columns = sorted({(point.fraction, point.num_rows) for point in points})
    header = ["method", *(f"{100 * fraction:g} % ({num_rows:,} rows)" for fraction, num_rows in columns)]
    rows = []
    for method in methods:
        row = [method]
        for column in columns:
            own = [p for p in points if p.method == method and (p.fraction, p.num_rows) == column]
            row.append(spread([figure(point) for point in own]).show(digits) if own else "")
        rows.append(row)
    return markdown_table(header, rows)
