"""The texts behind some rows of a night: of the table where they were kept, else of the corpus."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.analysis.vectors import IntArray, NightVectors, VectorColumn
from pipeline.corpus.lookup import read_rows_at
from pipeline.corpus.text import clean_text, is_word_list
from pipeline.errors import CorpusError, Problem, SpecError
from pipeline.schema import is_text
from pipeline.storage import Storage, map_threads

_THREADS = 8
_REMEDY = (
    "`text` names a column of texts, of the table or of the corpus; without it (`text: null`) topics have no words"
)


def check_text(name: str, column: VectorColumn) -> None:
    """Make sure that a column holds texts, where it is one of the table.

    Raises:
        SpecError: it holds something else.
    """
    if name in column.schema.names and not _is_text(column.schema.field(name).type):
        found = f"{name!r} is {column.schema.field(name).type}"
        raise SpecError(column.night.table, (Problem("text", found, "a column of texts", _REMEDY),))


def read_texts(vectors: NightVectors, rows: IntArray, name: str, column: VectorColumn, storage: Storage) -> list[str]:
    """The text of each of some rows, "" where there is none.

    Args:
        vectors: The night.
        rows: Rows of its vectors, ascending.
        name: A column of the table, or else of the corpus.
        column: How the night's rows are read again.
        storage: The store.

    Raises:
        CorpusError: a file of the corpus is gone, has fewer rows, or no such column of texts.
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
        found = read_rows_at(uri, vectors.source_rows[part].tolist(), [name], storage, _REMEDY)[name]
        if not _is_text(found.type):
            raise CorpusError(f"{uri}: {name} is {found.type}, and not text", _REMEDY)
        return _clean(found)

    return [text for texts in map_threads(read, parts, _THREADS, 4 * _THREADS) for text in texts]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_binary = kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    return is_text(kind) or is_binary or is_word_list(kind) or pa.types.is_null(kind)


def _clean(column: pa.ChunkedArray) -> list[str]:
    return [text or "" for chunk in column.chunks for text in clean_text(chunk, False).values.to_pylist()]
