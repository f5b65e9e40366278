"""Nearest neighbours among a night's rows: an index by faiss, and a file of the rows that it numbers.

index.faiss      unit vectors under inner product, which is their cosine; numbered from 0
rows.parquet     the row of each number: source file and row, kept columns
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.analysis.results import Found, read_current
from pipeline.analysis.spec import IndexSpec
from pipeline.analysis.vectors import KEYS, FloatMatrix, NightVectors, VectorColumn, work_folder
from pipeline.corpus.lookup import read_rows_at
from pipeline.errors import CorpusError, ModelError, Problem, SpecError
from pipeline.extras import check_extra
from pipeline.storage import Storage
from pipeline.telemetry import ProgressDisplay

INDEX, ROWS = "index.faiss", "rows.parquet"
_LINKS, _BUILD_WIDTH = 32, 200  # of HNSW: neighbours of a node, and how many candidates for them are looked at
_SEARCH_WIDTH = 128
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class Neighbours:
    """What a search found for one query, the nearest first.

    Attributes:
        rows: source_file, source_row and the kept columns, R rows.
        cosines: float32 [R].
    """

    rows: pa.Table
    cosines: Sequence[float]


def check_index() -> None:
    """Make sure that an index can be built and read.

    Raises:
        InputError: faiss is not installed.
    """
    check_extra("an index needs", "index", {"faiss": "faiss"})


def build_index(vectors: NightVectors, spec: IndexSpec, uri: str, storage: Storage) -> None:
    """Index a night's vectors, in the order of `vectors.unit_ND`, and put the file at a URI, complete or absent."""
    import faiss

    width = vectors.unit_ND.shape[1]
    if spec.kind == "hnsw":
        index: Any = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_WIDTH
    else:
        index = faiss.IndexFlatIP(width)
    with ProgressDisplay("indexing", len(vectors), "rows") as progress:
        for start in range(0, len(vectors), _BLOCK_ROWS):
            index.add(np.ascontiguousarray(vectors.unit_ND[start : start + _BLOCK_ROWS]))
            progress.update(index.ntotal, "")
    with work_folder(spec.work) as folder:
        faiss.write_index(index, str(folder / INDEX))
        storage.upload(folder / INDEX, uri)


def indexed_rows(vectors: NightVectors, spec: IndexSpec, column: VectorColumn, storage: Storage) -> Iterable[pa.Table]:
    """The rows in the index's order: those of the night that have a vector, in the order of its files."""
    for table, rows in column.numbered_rows(vectors, [*KEYS, *spec.keep], storage):
        yield table.filter(pa.array(rows >= 0))


class NightIndex:
    """A night's index, opened for searches: the index is in memory, rows are read as they are found.

    Args:
        found: The result of `bertmill index`.
        storage: The store.

    Raises:
        InputError: faiss is not installed.
        CorpusError: the index's file is gone.
    """

    def __init__(self, found: Found, storage: Storage) -> None:
        check_index()
        import faiss

        self._found, self._storage = found, storage
        with tempfile.TemporaryDirectory(prefix="bertmill-") as folder:
            local = Path(folder) / INDEX
            try:
                storage.download(found.files[INDEX], local)
            except FileNotFoundError:
                raise CorpusError(f"{found.files[INDEX]}: is gone", "build it again: `bertmill index`") from None
            self._index = faiss.read_index(str(local))
        if hasattr(self._index, "hnsw"):
            self._index.hnsw.efSearch = _SEARCH_WIDTH

    def search(self, queries_QD: FloatMatrix, num_neighbours: int) -> list[Neighbours]:
        """The rows nearest to each query, by cosine.

        Args:
            queries_QD: Vectors of any length, float32 [Q, D].
            num_neighbours: How many of each; fewer where the night has fewer rows.

        Raises:
            ModelError: vectors of another width than the night's.
        """
        if queries_QD.shape[1] != self._index.d:
            raise ModelError(
                f"queries have {queries_QD.shape[1]} numbers, the night's vectors {self._index.d}",
                "embed queries with the bundle that scored the night",
            )
        unit = queries_QD / np.maximum(np.linalg.norm(queries_QD, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        if hasattr(self._index, "hnsw"):  # candidates are at least what is asked for
            self._index.hnsw.efSearch = max(_SEARCH_WIDTH, 2 * num_neighbours)
        cosines, numbers = self._index.search(np.ascontiguousarray(unit, np.float32), num_neighbours)
        return [self._rows(own, near) for own, near in zip(numbers, cosines, strict=True)]

    def check_model(self, model_version: str) -> None:
        """Make sure that queries are embedded by the model that the night was scored with.

        Raises:
            ModelError: they are not.
        """
        versions = self._found.facts["model_versions"]
        known = ", ".join(versions) or "none that is known"
        if [model_version] != versions:
            raise ModelError(
                f"the bundle has model_version {model_version}, the night was scored with {known}",
                "give the bundle that scored the night",
            )

    def _rows(self, numbers: Any, cosines: Any) -> Neighbours:
        there = numbers >= 0
        wanted = numbers[there]
        order = np.argsort(wanted)
        names = [*KEYS, *self._found.facts["keep"]]
        table = read_rows_at(self._found.files[ROWS], wanted[order].tolist(), names, self._storage)
        return Neighbours(table.take(np.argsort(order)), np.clip(cosines[there], -1, 1).tolist())


def open_index(output: str, run_date: str, storage: Storage) -> NightIndex:
    """The current index of a night.

    Raises:
        InputError: faiss is not installed.
        CorpusError: there is none.
    """
    return NightIndex(read_current(output, run_date, "index", storage), storage)


def check_queries(queries: Sequence[str]) -> None:
    """Refuse queries that have nothing to search for.

    Raises:
        SpecError: one is blank.
    """
    if not queries or any(not query.strip() for query in queries):
        raise SpecError("command line", (Problem("--query", "is blank", "a text to search for"),))


def model_versions(tables: Iterable[pa.Table], name: str) -> list[str]:
    """The versions of the model that a night's rows are of; rows that it did not score have none."""
    return sorted({version for table in tables for version in table[name].drop_null().unique().to_pylist()})
