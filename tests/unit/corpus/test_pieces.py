from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.corpus import pieces
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.pieces import column_indices, group_bytes, read_columns
from pipeline.corpus.reader import Columns, ReadOptions, input_column, read_shard
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import CorpusError, CorruptFileError
from pipeline.storage import Storage

NUM_ROWS, TEXT_BYTES = 400, 8_192
TOO_LARGE = pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")


class CountedFile(io.FileIO):
    num_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(-1 if size is None else size)
        CountedFile.num_bytes += len(found)
        return found


class CountedFiles(LocalFileSystem):
    def _open(self, path: str, *_arguments: object, **_options: object) -> CountedFile:
        return CountedFile(path)


class CountingStorage(Storage):
    def open_arrow(self, uri: str) -> tuple[Any, str]:
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(CountedFiles())), uri


@pytest.fixture
def texts() -> list[str]:
    letters = np.random.default_rng(0).integers(33, 127, (NUM_ROWS, TEXT_BYTES), np.uint8)
    return [row.tobytes().decode() for row in letters]


@pytest.fixture
def large(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """One row group of few rows and many bytes."""
    monkeypatch.setattr(pieces, "_WHOLE_BYTES", NUM_ROWS * TEXT_BYTES // 2)
    monkeypatch.setattr(pieces, "_BATCH_BYTES", 10 * TEXT_BYTES)
    monkeypatch.setattr(pieces, "_BUFFER_BYTES", 4 * TEXT_BYTES)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, use_dictionary=False, data_page_size=4_096, write_batch_size=8)
    return path


def piece_of(path: Path, start: int, stop: int) -> Piece:
    (file,) = list_corpus([str(path)], Storage())
    return Piece(file, start, stop)


@pytest.mark.parametrize(("start", "most_read"), [(0, 0.1), (5, 0.1), (200, 0.6), (395, 1.1)])
def test_of_a_row_group_of_many_bytes_only_what_is_needed_is_fetched(
    start: int, most_read: float, large: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedFile, "num_bytes", 0)
    (text,) = read_columns(piece_of(large, start, start + 5), ["text"], CountingStorage()).values()
    assert text.to_pylist() == texts[start : start + 5]
    assert CountedFile.num_bytes < most_read * large.stat().st_size


def test_few_rows_at_a_time_are_decoded_where_rows_are_large(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read = pq.ParquetFile.iter_batches

    def watch(self: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
        asked.append(rows)
        return read(self, rows, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watch)
    read_columns(piece_of(large, 100, 200), ["text"], Storage())
    assert 8 <= asked[0] <= 10


def read_nested(directory: Path) -> list[str]:
    path = directory / "a.parquet"
    pq.write_table(pa.table({"doc": [{"body": f"row {row}"} for row in range(200)]}), path)
    shard = Shard("name", (piece_of(path, 10, 190),), 0)
    rows = read_shard(shard, Columns(("doc.body",)), ReadOptions(pa.schema([]), True), Storage())
    return list(rows[input_column("doc.body")].to_pylist())


@pytest.mark.parametrize("most_rows", [64, 1])
def test_nested_text_that_is_too_large_for_one_array_is_read_in_parts(
    most_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pq.ParquetFile.iter_batches

    def read_few(self: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
        if rows > most_rows:
            raise TOO_LARGE
        return read(self, rows, **options)

    def fail(*_arguments: object, **_options: object) -> None:
        raise TOO_LARGE

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", fail)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read_few)
    assert read_nested(tmp_path) == [f"row {row}" for row in range(10, 190)]


def test_a_file_whose_rows_are_too_large_for_arrow_is_not_called_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise TOO_LARGE

    for name in ("read_row_groups", "iter_batches"):
        monkeypatch.setattr(pq.ParquetFile, name, fail)
    with pytest.raises(CorpusError, match=r"a\.parquet: nested text of 2 GiB or more in one row") as caught:
        read_nested(tmp_path)
    assert not isinstance(caught.value, CorruptFileError)


def test_what_else_arrow_cannot_read_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise pa.ArrowNotImplementedError("no such encoding")

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", fail)
    with pytest.raises(CorruptFileError, match="no such encoding"):
        read_nested(tmp_path)


def test_columns_are_found_by_their_names_and_as_fields_of_others(tmp_path: Path) -> None:
    doc = pa.array([{"body": "x", "n": 1}])
    table = pa.table({"document": ["x"], "doc": doc, "tags": [["a"]], "doc.n": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert column_indices(metadata, ["doc"]) == [1, 2, 4]
    assert column_indices(metadata, ["doc.body", "tags"]) == [1, 3]
    assert column_indices(metadata, ["body"]) == []
    group = metadata.row_group(0)
    assert group_bytes(group, [1, 3]) == sum(group.column(index).total_uncompressed_size for index in (1, 3))
