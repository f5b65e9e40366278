"""What type a column has over all files of a corpus."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.corpus.column_types import holds_words, kept_schema
from pipeline.corpus.reader import Columns, ReadOptions, input_column, read_shard
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import CorpusError
from tests.unit.corpus.files import STORAGE, TEXT, TEXT_AND_ID, footers_of, read_all, write


@pytest.mark.parametrize(
    "nothing", [pa.nulls(0), pa.nulls(2), pa.array([[], []]), pa.array([[]], pa.list_(pa.string()))]
)
def test_a_file_without_words_is_one_of_word_lists(tmp_path: Path, nothing: pa.Array) -> None:
    write(tmp_path / "a.parquet", text=[["some", "words"]])
    write(tmp_path / "b.parquet", text=nothing)
    assert holds_words(footers_of(tmp_path, TEXT), TEXT)
    assert len(read_all(tmp_path, TEXT)) == 1 + len(nothing)


def test_word_lists_beside_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=[["some", "words"]])
    write(tmp_path / "b.parquet", text=["a text"])
    with pytest.raises(CorpusError, match="'text' holds lists of words in some files and text in others"):
        holds_words(footers_of(tmp_path, TEXT), TEXT)


@pytest.mark.parametrize(
    "kinds",
    [
        (pa.int32(), pa.int64()),
        (pa.int8(), pa.uint16()),
        (pa.float32(), pa.float64()),
    ],
)
def test_kept_types_that_differ_between_files_are_joined(tmp_path: Path, kinds: tuple[pa.DataType, ...]) -> None:
    for number, kind in enumerate(kinds):
        write(tmp_path / f"{number}.parquet", text=["x"], id=pa.array([number], kind))
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == [0, 1]
    assert kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",)).field("id").type in (pa.int64(), pa.float64())


def test_kept_strings_of_every_encoding_are_one_type(tmp_path: Path) -> None:
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.null()]
    for number, kind in enumerate(kinds):
        value = [None] if kind == pa.null() else [str(number)]
        write(tmp_path / f"{number}.parquet", text=["x"], id=pa.array(value, kind))
    assert kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",)) == pa.schema([("id", pa.string())])
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == ["0", "1", "2", "3", None]


def test_kept_columns_of_other_writers_are_read_as_plain_types(tmp_path: Path) -> None:
    """What DuckDB, Polars and Spark write: JSON text, UUIDs, maps, nanoseconds inside of structs."""
    number = uuid.UUID(int=7)
    kept = {
        "key": pa.array([number.bytes], pa.uuid()),
        "tags": pa.array([[("a", "b")]], pa.map_(pa.large_string(), pa.large_string())),
        "doc": pa.array([{"at": 1_001, "n": 3}], pa.struct([("at", pa.timestamp("ns")), ("n", pa.uint8())])),
    }
    write(tmp_path / "a.parquet", text=pa.array(['{"a": 1}'], pa.json_()), **kept)
    (row,) = read_all(tmp_path, Columns(("text",), tuple(kept)))
    assert row[input_column("text")] == '{"a": 1}'
    assert (row["key"], row["tags"]) == (str(number), [("a", "b")])
    assert row["doc"] == {"at": datetime(1970, 1, 1, microsecond=1), "n": 3}


def test_kept_types_that_nothing_joins_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", text=["x"], id=[1])
    write(tmp_path / "1.parquet", text=["x"], id=["one"])
    with pytest.raises(CorpusError, match=r"1\.parquet: a column's type does not fit the files before it") as e:
        kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",))
    assert e.value.remedy == "write the column with one type in every file"


@pytest.mark.parametrize(
    ("decimals", "doubles"),
    [
        (pa.array([Decimal("1.10")]), pa.array([1.1])),
        (pa.array([[Decimal("1.10")]]), pa.array([[1.1]])),
        (pa.array([{"a": Decimal("1.10"), "b": 1}]), pa.array([{"b": 1, "a": 1.1}])),
        (
            pa.array([[("k", Decimal("1.10"))]], pa.map_(pa.string(), pa.decimal128(3, 2))),
            pa.array([[("k", 1.1)]], pa.map_(pa.string(), pa.float32())),
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_decimals_are_not_rounded_to_another_files_doubles(
    decimals: pa.Array, doubles: pa.Array, turned: bool, tmp_path: Path
) -> None:
    for name, column in [("a", pa.nulls(1)), ("b", doubles if turned else decimals), ("c", pa.nulls(1))]:
        write(tmp_path / f"{name}.parquet", text=["x"], id=column)
    write(tmp_path / "d.parquet", text=["x"], id=decimals if turned else doubles)
    with pytest.raises(CorpusError, match=r"d\.parquet: column 'id' is .* here and .* in .*b\.parquet:") as caught:
        kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",))
    assert caught.value.remedy == "write the column with one type in every file"


def test_decimals_beside_integers_and_wider_decimals_stay_exact(tmp_path: Path) -> None:
    columns = [pa.array([Decimal("1.10")]), pa.array([7], pa.int32()), pa.array([Decimal("0.1234")])]
    for number, column in enumerate(columns):
        write(tmp_path / f"{number}.parquet", text=["x"], id=column)
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == [Decimal("1.1"), Decimal(7), Decimal("0.1234")]


def test_a_known_type_is_taken_where_every_file_reads_as_it(tmp_path: Path) -> None:
    for number, kind in enumerate([pa.null(), pa.int32()]):
        write(tmp_path / f"{number}.parquet", text=["x"], id=pa.array([None], kind), other=pa.nulls(1))
    footers = footers_of(tmp_path, Columns(("text",), ("id", "other")))
    kinds = {"id": pa.float64(), "other": pa.list_(pa.int32())}
    taken = kept_schema(footers, ("other", "id"), known=kinds)
    assert taken == pa.schema([("other", pa.list_(pa.field("element", pa.int32()))), ("id", pa.float64())])
    assert kept_schema(footers, ("id",), known={"id": pa.date32()}) == pa.schema([("id", pa.int64())])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([["a"], None], pa.list_view(pa.string()), pa.list_(pa.field("element", pa.string()))),
        ([Decimal("1.23"), None], pa.decimal32(5, 2), pa.decimal128(5, 2)),
        ([Decimal("1.23"), None], pa.decimal256(38, 2), pa.decimal128(38, 2)),
    ],
)
def test_kept_types_that_delta_lacks_are_kept_as_their_like(
    values: list[Any], kind: pa.DataType, expected: pa.DataType, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", text=["x", "y"], id=pa.array(values, kind))
    assert kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",)).field("id").type == expected
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == values


LISTS = pa.list_(pa.field("element", pa.int64()))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (pa.null(), pa.int64()),
        (pa.null(), LISTS),
        (pa.null(), pa.timestamp("us")),
        (pa.null(), pa.string()),
        (pa.list_(pa.null()), LISTS),
        (pa.struct([("a", pa.null())]), pa.struct([("a", LISTS)])),
    ],
)
def test_a_file_of_nulls_takes_the_type_that_another_file_tells(
    kind: pa.DataType, told: pa.DataType, tmp_path: Path
) -> None:
    nulls = [[None] if pa.types.is_list(kind) else {"a": None} if pa.types.is_struct(kind) else None] * 3
    for name, column in [("a", pa.array(nulls, kind)), ("b", pa.nulls(3, told)), ("c", pa.array(nulls, kind))]:
        write(tmp_path / f"{name}.parquet", text=["x"] * 3, id=column)
    assert kept_schema(footers_of(tmp_path, TEXT_AND_ID), ("id",)).field("id").type == told
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == [*nulls, *[None] * 3, *nulls]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.struct([("source", pa.string()), ("editor", pa.null())]), {"source": "x", "editor": None}),
        (pa.list_(pa.null()), [None]),
        (pa.list_(pa.struct([("editor", pa.null())])), [{"editor": None}]),
    ],
)
def test_nulls_inside_of_a_kept_column_are_kept_in_every_part_of_a_row_group(
    kind: pa.DataType, value: object, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", text=["x"] * 8, id=pa.array([value, None] * 4, kind))
    (footer,) = footers_of(tmp_path, TEXT_AND_ID)
    options = ReadOptions(kept_schema([footer], ("id",)), True)
    for start in range(0, 8, 2):
        piece = Piece(footer.layout.file, start, start + 2)
        rows = read_shard(Shard("name", (piece,), 0), TEXT_AND_ID, options, STORAGE)
        assert rows["id"].to_pylist() == [value, None]
        assert "null" not in str(rows.schema.field("id").type)
