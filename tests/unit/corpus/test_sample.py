"""Reading a sample of a corpus."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import reader
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import Columns, ReadOptions, input_column, read_footers
from pipeline.corpus.sample import SampleSize, Spot, choose_spots, read_sample
from pipeline.schema import SOURCE_ROW
from pipeline.storage import Storage

COLUMNS, OPTIONS = Columns(("text",)), ReadOptions(pa.schema([]), quarantine_blank=True)


def spots_of(directory: Path, num_spots: int) -> list[Spot]:
    footers = read_footers(list_corpus([str(directory)], Storage()), COLUMNS, Storage())
    pieces = [piece for spot in footers for piece in whole(spot)]
    return choose_spots(pieces, {footer.layout.file.uri: footer.layout for footer in footers}, num_spots)


def whole(footer: reader.FileFooter) -> list[reader.Piece]:
    return [reader.Piece(footer.layout.file, 0, footer.layout.num_rows)]


def write(path: Path, texts: list[str], row_group_rows: int) -> None:
    pq.write_table(pa.table({"text": texts}), path, row_group_size=row_group_rows, use_dictionary=False)


def test_a_sample_is_spread_over_files_and_row_groups(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.parquet", ["word"] * 40, 10)
    spots = spots_of(tmp_path, 6)
    assert [(spot.piece.file.uri[-9], spot.weight) for spot in spots] == [(name, 2.0) for name in "aabbcc"]


def test_the_rows_of_a_spot_are_evenly_spaced(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["word"] * 40, 40)
    (rows,) = read_sample(spots_of(tmp_path, 4), COLUMNS, OPTIONS, Storage(), SampleSize(rows=4))
    assert rows[SOURCE_ROW].to_pylist() == [5, 15, 25, 35]


def test_long_texts_are_fewer(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["x" * 1_000] * 40, 40)
    (rows,) = read_sample(spots_of(tmp_path, 4), COLUMNS, OPTIONS, Storage(), SampleSize(text_bytes=10_000))
    assert rows.num_rows == 10


def test_of_a_giant_row_group_the_first_rows_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a whole row group was read")

    texts = [f"row {row}" for row in range(70_000)]
    write(tmp_path / "a.parquet", texts, 70_000)
    (spot,) = spots_of(tmp_path, 4)
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", refuse)
    (rows,) = read_sample([spot], COLUMNS, OPTIONS, Storage(), SampleSize(rows=1_000))
    found = rows[SOURCE_ROW].to_pylist()
    assert (len(found), min(found), max(found)) == (1_000, 8, 16_375)
    assert rows[input_column("text")].to_pylist() == [texts[row] for row in found]
