"""A confusion matrix for people, no label and no count of which is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.tasks.base import Confusion

_MOST_CLASSES = 20
_UNBOUNDED = 100_000


def print_confusion(confusion: Confusion, console: Console) -> None:
    """Columns by label; by the rows' numbers where labels would be cut; where counts would be, that it is left out."""
    numbers = [str(number) for number in range(1, len(confusion.labels) + 1)]
    numbered = [f"{number} {label}" for number, label in zip(numbers, confusion.labels, strict=True)]
    is_small = len(confusion.labels) <= _MOST_CLASSES
    for rows, columns in ((confusion.labels, confusion.labels), (numbered, numbers)) if is_small else ():
        table = _confusion_table(confusion, rows, columns)
        if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum <= console.width:
            console.print(table)
            return
    print(f"the confusion matrix of {len(confusion.labels)} labels is too wide to show; `report: FILE.json` holds it")


def _confusion_table(confusion: Confusion, rows: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table("true \\ predicted", *map(Column, map(Text, columns)))
    for label, counts in zip(rows, confusion.counts.tolist(), strict=True):
        table.add_row(Text(label), *(f"{count:,}" for count in counts))
    return table
