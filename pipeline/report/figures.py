"""What a sample of a night's rows looks like: labels, numbers, token counts, the mean embedding."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.compare import choose_columns
from pipeline.output.keys import read_row_group, read_row_groups
from pipeline.schema import RESERVED_COLUMNS, is_list
from pipeline.storage import Storage

FloatArray = npt.NDArray[np.float64]
EMBEDDING_ROWS = 20_000
"""Rows of a sample whose embeddings are read: they are most of a table's bytes."""
_TOKENS, _ENTITIES = "num_tokens", "entities"


@dataclass(frozen=True)
class FigureColumns:
    """Columns of a table that reports draw: what the model wrote, and not what was kept of the corpus."""

    labels: tuple[str, ...]
    numbers: tuple[str, ...]
    tokens: tuple[str, ...]
    vectors: tuple[str, ...]
    lists: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All but the vectors and lists of numbers."""
        return [*self.labels, *self.numbers, *self.tokens]


@dataclass
class Figures:
    """Counts and values of the sampled rows, by column."""

    num_rows: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    numbers: dict[str, FloatArray] = field(default_factory=dict)
    tokens: dict[str, FloatArray] = field(default_factory=dict)
    means: dict[str, FloatArray] = field(default_factory=dict)
    num_embeddings: int = 0


def choose_figure_columns(schema: pa.Schema, kept: Sequence[str]) -> FigureColumns:
    """Labels, scores, token counts and embeddings among a table's columns; `kept` ones are the corpus's own."""
    own = pa.schema([column for column in schema if column.name not in kept])
    compared = choose_columns(own)
    entities = [column.name for column in own if _ends(column.name, _ENTITIES) and is_list(column.type)]
    plain = [name for name in compared.numbers if not pa.types.is_nested(own.field(name).type)]
    lists = [name for name in compared.numbers if name not in plain]
    tokens = [column.name for column in own if _ends(column.name, _TOKENS)]
    groups = ([*compared.labels, *entities], plain, tokens, compared.vectors, lists)
    return FigureColumns(*(tuple(group) for group in groups))


def display_columns(schema: pa.Schema, kept: Sequence[str]) -> list[str]:
    """The first three kept columns that can stand in a cell of a page."""
    known = [name for name in kept if name in schema.names and name not in RESERVED_COLUMNS]
    return [name for name in known if not pa.types.is_nested(schema.field(name).type)][:3]


def read_figures(uri: str, paths: Sequence[str], columns: FigureColumns, storage: Storage) -> Figures:
    """Read some files of a table, a row group at a time; in memory stay a number or two for each row."""
    found = Figures()
    parts: dict[str, list[FloatArray]] = defaultdict(list)
    sums: dict[str, tuple[FloatArray, int]] = {}
    for path in paths:
        for place, rows in read_row_groups(uri, path, columns.names, storage):
            found.num_rows += rows.num_rows
            for name in columns.labels:
                found.labels[name].update(_label_counts(rows[name]))
            for name in (*columns.numbers, *columns.tokens):
                parts[name].append(np.asarray(rows[name].drop_null().to_numpy(), np.float64))
            if columns.vectors and found.num_embeddings < EMBEDDING_ROWS:
                vectors = read_row_group(place, list(columns.vectors), storage)
                for name in columns.vectors:
                    sums[name] = _with_vectors(sums.get(name), vectors[name])
                found.num_embeddings += rows.num_rows
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    found.numbers = {name: joined[name][np.isfinite(joined[name])] for name in columns.numbers if name in joined}
    found.tokens = {name: joined[name] for name in columns.tokens if name in joined}
    found.means = {name: total / count for name, (total, count) in sums.items() if count}
    return found


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f"_{ending}")


def _label_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Rows by label; of lists, labels by label, and rows without any."""
    if is_list(column.type):
        empty = int(pc.sum(pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0)).as_py() or 0)
        flat = pc.list_flatten(column)
        if pa.types.is_struct(flat.type):
            flat = pc.struct_field(flat, "label")
        return {**_value_counts(flat), **({"(none)": empty} if empty else {})}
    return _value_counts(column)


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    found = column.value_counts().to_pylist()
    return {"(null)" if item["values"] is None else str(item["values"]): int(item["counts"]) for item in found}


def _with_vectors(so_far: tuple[FloatArray, int] | None, column: pa.ChunkedArray) -> tuple[FloatArray, int]:
    """A sum of vectors, and how many they were; vectors of another width than the first are left out."""
    widths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    width = len(so_far[0]) if so_far is not None and so_far[1] else int(widths.max(initial=0))
    whole = column.filter(pa.array(widths == width))
    values = np.asarray(pc.list_flatten(whole).to_numpy(), np.float64).reshape(len(whole), width)
    values = values[np.isfinite(values).all(axis=1)]
    total, count = so_far if so_far is not None and so_far[1] else (np.zeros(width), 0)
    return total + values.sum(axis=0), count + len(values)
