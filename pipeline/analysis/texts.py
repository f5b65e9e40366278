"""The texts behind some rows of a night: of the table where they were kept, else of the corpus."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.analysis.vectors import IntArray, NightVectors, VectorColumn
from pipeline.corpus.lookup import read_rows_at
from pipeline.corpus.text import clean_text
from pipeline.storage import Storage, map_threads

_THREADS = 8


def read_texts(vectors: NightVectors, rows: IntArray, name: str, column: VectorColumn, storage: Storage) -> list[str]:
    """The text of each of some rows, "" where there is none.

    Args:
        vectors: The night.
        rows: Rows of its vectors, ascending.
        name: A column of the table, or else of the corpus.
        column: How the night's rows are read again.
        storage: The store.

    Raises:
        CorpusError: a file of the corpus is gone, has fewer rows, or has no such column.
    """
    if name in column.schema.names:
        return _from_table(vectors, rows, name, column, storage)
    return _from_corpus(vectors, rows, name, storage)


def _from_table(vectors: NightVectors, rows: IntArray, name: str, column: VectorColumn, storage: Storage) -> list[str]:
    texts = [""] * len(rows)
    for table, places in column.chosen_rows(vectors, rows, [name], storage):
        for place, text in zip(places.tolist(), _clean(table[name]), strict=True):
            texts[place] = text
    return texts


def _from_corpus(vectors: NightVectors, rows: IntArray, name: str, storage: Storage) -> list[str]:
    """Rows are in the order of their files, so each file's are neighbours, and are read in one go."""
    codes = vectors.source_codes[rows]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    parts = [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]

    def read(part: IntArray) -> list[str]:
        uri = vectors.source_files[vectors.source_codes[part[0]]]
        return _clean(read_rows_at(uri, vectors.source_rows[part].tolist(), [name], storage)[name])

    return [text for texts in map_threads(read, parts, _THREADS, 4 * _THREADS) for text in texts]


def _clean(column: pa.ChunkedArray) -> list[str]:
    return [text or "" for chunk in column.chunks for text in clean_text(chunk, False).values.to_pylist()]
