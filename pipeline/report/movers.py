"""The rows that changed most between two nights."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.matching import NightRows, NotCompared, RowMatcher
from pipeline.report.figures import FigureColumns, FloatArray
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage

MAX_MOVERS = 15


@dataclass(frozen=True)
class Mover:
    """One row in two nights: the largest change of any of its scores, its labels and its kept columns, as text."""

    source_file: str
    source_row: int
    change: float
    before: tuple[str, ...]
    after: tuple[str, ...]
    shown: tuple[str, ...]


@dataclass
class Movement:
    """What became of the rows of both samples.

    Attributes:
        num_rows: Rows compared.
        flips: (column, label before, after) -> rows.
        movers: Those whose scores changed most, most first; rows that changed nothing are not among them.
        not_compared: Rows of files that were rewritten between the nights, or whose etags are not known.
    """

    num_rows: int = 0
    flips: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    movers: list[Mover] = field(default_factory=list)
    not_compared: NotCompared = field(default_factory=NotCompared)


@dataclass(frozen=True)
class _Columns:
    labels: list[str]
    numbers: list[str]
    shown: list[str]


def find_movement(
    uri: str, nights: tuple[NightRows, NightRows], columns: FigureColumns, shown: Sequence[str], storage: Storage
) -> Movement:
    """Join the rows of two nights' files and keep those that moved most."""
    labels = [name for name in columns.labels if not name.endswith("entities")]
    wanted = _Columns(labels, [*columns.numbers, *columns.lists], list(shown))
    found = Movement()
    heap: list[tuple[float, int, Mover]] = []
    names = [*wanted.labels, *wanted.numbers, *wanted.shown]
    matcher = RowMatcher(uri, *nights, storage)
    for left, right in matcher.match_rows(names):
        found.num_rows += left.num_rows
        flipped = np.zeros(left.num_rows, np.bool_)
        for name in wanted.labels:
            pairs = zip(_as_text(left[name]), _as_text(right[name]), strict=True)
            changed = [(index, before, after) for index, (before, after) in enumerate(pairs) if before != after]
            found.flips.update((name, before, after) for _, before, after in changed)
            flipped[[index for index, _, _ in changed]] = True
        changes = _largest_changes(left, right, wanted.numbers)
        if not wanted.numbers:
            changes = flipped.astype(np.float64)
        for index in np.argsort(-changes)[:MAX_MOVERS]:
            if changes[index] > 0 and (len(heap) < MAX_MOVERS or changes[index] > heap[0][0]):
                mover = _mover(left, right, int(index), float(changes[index]), wanted)
                entry = (mover.change, -found.num_rows + int(index), mover)
                (heapq.heappush if len(heap) < MAX_MOVERS else heapq.heapreplace)(heap, entry)
    found.not_compared = matcher.not_compared
    found.movers = [mover for _, _, mover in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
    return found


def _largest_changes(left: pa.Table, right: pa.Table, names: Sequence[str]) -> FloatArray:
    """Of each row [R] the largest absolute change of any of its numbers; 0 where they cannot be compared."""
    changes = np.zeros(left.num_rows)
    for name in names:
        before, after = left[name], right[name]
        if not pa.types.is_nested(before.type):
            shift = np.abs(_floats(after) - _floats(before))
        else:
            widths = [np.asarray(pc.fill_null(pc.list_value_length(side), -1)) for side in (before, after)]
            width = int(widths[0].max(initial=0))
            same = (widths[0] == width) & (widths[1] == width) & (width > 0)
            flat = [_floats(pc.list_flatten(side.filter(pa.array(same)))) for side in (before, after)]
            shift = np.zeros(left.num_rows)
            shift[same] = np.abs(flat[1] - flat[0]).reshape(-1, max(width, 1)).max(axis=1, initial=0.0)
        changes = np.fmax(changes, np.where(np.isfinite(shift), shift, 0.0))
    return changes


def _floats(column: pa.ChunkedArray | pa.Array) -> FloatArray:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _mover(left: pa.Table, right: pa.Table, index: int, change: float, columns: _Columns) -> Mover:
    plain = [name for name in columns.numbers if not pa.types.is_nested(left.schema.field(name).type)]
    sides = [tuple(_cell(side[name][index].as_py()) for name in (*columns.labels, *plain)) for side in (left, right)]
    shown = tuple(_cell(right[name][index].as_py()) for name in columns.shown)
    source_file, source_row = right[SOURCE_FILE][index].as_py(), right[SOURCE_ROW][index].as_py()
    return Mover(source_file, source_row, change, sides[0], sides[1], shown)


def _as_text(column: pa.ChunkedArray) -> list[str]:
    return [_cell(value) for value in column.to_pylist()]


def _cell(value: Any) -> str:
    """A value as it stands in a page's cell."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
