"""Figures of an evaluation, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from jobs.confusion_printing import print_confusion

if TYPE_CHECKING:
    from pipeline.inference.cascade_trial import CascadeLevel
    from pipeline.tasks.base import Evaluation


def print_evaluation(found: Evaluation, total: str) -> None:
    """One line of figures, a confusion matrix that fits a screen, and a cascade's table."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics.items())
    print(f"{found.num_rows:,} of {total}: {figures}")
    if found.confusion is not None:
        print_confusion(found.confusion, Console())
    if levels := _levels(found):
        Console().print(_cascade_table(levels))


def evaluation_as_json(found: Evaluation) -> dict[str, object]:
    """The same, for programs."""
    confusion = found.confusion
    matrix = {"labels": confusion.labels, "counts": confusion.counts.tolist()} if confusion else None
    rows: dict[str, object] = {"num_rows": found.num_rows, "rows_digest": found.rows_digest or None}
    figures = {**rows, "metrics": found.metrics, "confusion": matrix}
    levels = _levels(found)
    return {**figures, "cascade": [vars(level) for level in levels]} if levels else figures


def _levels(found: Evaluation) -> tuple[CascadeLevel, ...]:
    """Those of a cascade that was tried; none of one bundle."""
    from pipeline.inference.cascade_trial import CascadeEvaluation  # torch: loaded by now, and not for --help

    return found.levels if isinstance(found, CascadeEvaluation) else ()


def _cascade_table(levels: tuple[CascadeLevel, ...]) -> Table:
    shown = [name for name in ("accuracy", "macro_f1") if name in levels[0].metrics]
    columns = ["min_score", "answered by first", "share of the large one's time", *shown]
    table = Table(*(Column(name, justify="right") for name in columns))
    for level in levels:
        name = "bundle alone" if level.min_score is None else f"{level.min_score:g}"
        shares = (f"{level.kept_share:.1%}", f"{level.time_share:.2f}")
        table.add_row(name, *shares, *(f"{level.metrics[metric]:.4f}" for metric in shown))
    return table
