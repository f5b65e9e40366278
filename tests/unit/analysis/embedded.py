"""Nights of given embeddings, made without a model; and of random ones with near-duplicates among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.vectors import VectorColumn
from pipeline.output.nights import read_night
from tests.unit.output.scored import NIGHT, STORAGE, publish, scored_row, write_shard

Rows = list[dict[str, Any]]
Vectors = npt.NDArray[np.float64]


def embedded_rows(vectors: Sequence[Any], names: Sequence[str] = ("b", "a", "c")) -> Rows:
    """Rows of a few source files, in the order of the vectors, with an id that says which vector they have."""
    size = -(-len(vectors) // len(names))
    return [
        scored_row(names[index // size], index % size, id=str(index), embedding=vector)
        for index, vector in enumerate(vectors)
    ]


def make_night(table: Path | str, rows: Rows, num_files: int = 3, run_id: str = "r1") -> None:
    """A night of several files."""
    shards = [
        write_shard(table, NIGHT, f"s{index}-{run_id}", rows[index::num_files])
        for index in range(num_files)
        if rows[index::num_files]
    ]
    publish(table, NIGHT, *shards, run_id=run_id)


def night_column(table: Path, column: str = "embedding") -> VectorColumn:
    night = read_night(str(table), NIGHT, STORAGE)
    return VectorColumn(night, night.columns(STORAGE), column)


def walk_groups(near: npt.NDArray[np.bool_]) -> list[set[int]]:
    """Rows that hang together by pairs [R, R], found by walking from row to row; in the order of their first rows."""
    groups: list[set[int]] = []
    for start in range(len(near)):
        if any(start in group for group in groups):
            continue
        group, todo = set[int](), [start]
        while todo:
            at = todo.pop()
            if at not in group:
                group.add(at)
                todo += np.flatnonzero(near[at]).tolist()
        groups.append(group)
    return groups


def noisy_copies(num_kinds: int, num_copies: int, width: int, noise: float, seed: int) -> Vectors:
    """Random vectors, each followed by copies that are a little off: [kinds * copies, width], of any length."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(rng.normal(size=(num_kinds, width)), num_copies, axis=0)
    return np.asarray((kinds + noise * rng.normal(size=kinds.shape)) * rng.uniform(0.5, 2, size=(len(kinds), 1)))
