"""Figures over seeds, and tables of them in Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    deviation: float | None
    count: int

    def show(self, digits: int) -> str:
        """`0.812 ± 0.004`, or `0.812` for a single value."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also line up as plain text; the first column is set left, the others right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rule = [f"{'-' * width}" if not column else f"{'-' * (width - 1)}:" for column, width in enumerate(widths)]
    lines = [_line([_pad(cell, widths[column], column) for column, cell in enumerate(row)]) for row in cells]
    return "\n".join([lines[0], _line(rule), *lines[1:]]) + "\n"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
