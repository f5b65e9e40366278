from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.errors import OutputTakenError
from pipeline.output.columns import new_columns, same_type
from pipeline.output.table import DataFile, Night, check_table_target, publish_night
from pipeline.schema import BESIDE, RUN_DATE_FIELD, file_schema
from pipeline.storage import Storage

STORAGE = Storage()
FIRST, SECOND, THIRD = "2026-11-23", "2026-11-24", "2026-11-25"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("label", pa.string()), RUN_DATE_FIELD])
EXTRA = pa.field("extra", pa.float64(), nullable=False)
BESIDE_LABEL = pa.field("next_label", pa.string(), metadata={BESIDE: b"next"})


def publish(table: Path, run_date: str, schema: pa.Schema, row: dict[str, object]) -> int:
    path = f"run_date={run_date}/a.parquet"
    (table / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row], file_schema(schema)), table / path)
    file = DataFile(path, (table / path).stat().st_size, 1)
    return publish_night(str(table), Night(run_date, (file,), schema, {"run_date": run_date}), STORAGE).version


def rows_of(table: Path) -> list[tuple[object, ...]]:
    found = DeltaTable(table).to_pyarrow_dataset()  # DuckDB finds it by its name
    assert found is not None
    read = duckdb.sql("SELECT * FROM found ORDER BY run_date").fetchall()
    assert pl.scan_delta(str(table)).sort("run_date").collect().rows() == read
    return read


def test_a_new_column_is_added_and_null_in_the_nights_before(tmp_path: Path) -> None:
    publish(tmp_path, FIRST, SCHEMA, {"id": 1, "label": "a"})
    wider = pa.schema([SCHEMA.field("id"), EXTRA, SCHEMA.field("label"), RUN_DATE_FIELD])
    (added,) = check_table_target(str(tmp_path), wider, STORAGE)
    assert (added.name, added.nullable) == ("extra", True)
    publish(tmp_path, SECOND, wider, {"id": 2, "label": "b", "extra": 0.5})
    assert [(row[:2], row[3]) for row in rows_of(tmp_path)] == [((1, "a"), None), ((2, "b"), 0.5)]
    assert publish(tmp_path, SECOND, wider, {"id": 2, "label": "b", "extra": 0.5}) == DeltaTable(tmp_path).version()


def test_a_killed_publisher_leaves_a_column_of_nulls_and_the_next_goes_on(tmp_path: Path) -> None:
    publish(tmp_path, FIRST, SCHEMA, {"id": 1, "label": "a"})
    wider = SCHEMA.append(EXTRA)
    table = DeltaTable(tmp_path)
    fields = new_columns(pa.schema(table.schema().to_arrow()), wider, "t")
    publish_night(str(tmp_path), Night(SECOND, (), wider, {}), STORAGE)  # columns come first, files after
    assert [field.name for field in fields] == ["extra"]
    assert [row[3] for row in rows_of(tmp_path)] == [None]
    publish(tmp_path, SECOND, wider, {"id": 2, "label": "b", "extra": 0.5})
    assert [row[3] for row in rows_of(tmp_path)] == [None, 0.5]


def test_columns_of_a_comparison_night_may_be_left_out_again(tmp_path: Path) -> None:
    publish(tmp_path, FIRST, SCHEMA, {"id": 1, "label": "a"})
    publish(tmp_path, SECOND, SCHEMA.append(BESIDE_LABEL), {"id": 2, "label": "b", "next_label": "c"})
    assert check_table_target(str(tmp_path), SCHEMA, STORAGE) == []
    publish(tmp_path, THIRD, SCHEMA, {"id": 3, "label": "d"})
    assert [(row[1], row[3]) for row in rows_of(tmp_path)] == [("a", None), ("b", "c"), ("d", None)]


@pytest.mark.parametrize("days", [(1, 2), (1, 3)], ids=["other columns", "the same column"])
def test_publishers_that_race_to_add_columns_both_end_whole(
    days: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    publish(tmp_path, FIRST, SCHEMA, {"id": 1, "label": "a"})
    nights = {f"2026-12-{day:02d}": pa.field(f"extra_{day % 2}", pa.float64(), metadata={BESIDE: b"x"}) for day in days}

    def add(run_date: str) -> None:
        row = {"id": 2, "label": "b", nights[run_date].name: 0.5}
        publish(tmp_path, run_date, SCHEMA.append(nights[run_date]), row)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, nights))
    found = DeltaTable(tmp_path).to_pyarrow_table().to_pylist()
    told = {str(row.pop("run_date")): {name: row[name] for name in row if name not in SCHEMA.names} for row in found}
    nothing = dict.fromkeys((field.name for field in nights.values()), None)
    assert told == {FIRST: nothing} | {night: {**nothing, field.name: 0.5} for night, field in nights.items()}


MAP = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (MAP, pa.map_(pa.string(), pa.field("k", pa.int64())), True),
        (MAP, pa.map_(pa.large_string(), pa.field("k", pa.int64())), True),
        (MAP, pa.map_(pa.string(), pa.int32()), False),
        (MAP, pa.map_(pa.int64(), pa.int64()), False),
        (MAP, pa.list_(pa.struct({"key": pa.string(), "value": pa.int64()})), False),
        (pa.list_(MAP), pa.large_list(pa.map_(pa.string(), pa.field("k", pa.int64()))), True),
        (pa.struct({"a": MAP}), pa.struct({"a": pa.map_(pa.string(), pa.field("k", pa.int64()))}), True),
        (pa.struct({"a": pa.list_(pa.field("x", pa.string()))}), pa.struct({"a": pa.list_(pa.string_view())}), True),
        (pa.struct({"a": pa.string()}), pa.struct({"b": pa.string()}), False),
        (pa.struct({"a": pa.string()}), pa.struct({"a": pa.string(), "b": pa.string()}), False),
        (pa.struct({"a": pa.string()}), pa.struct([pa.field("a", pa.string(), nullable=False)]), False),
        (pa.list_(pa.int64()), pa.list_(pa.int32()), False),
        (pa.list_(pa.int64()), pa.list_(pa.int64(), 2), True),
        (pa.list_(pa.int64()), pa.int64(), False),
    ],
)
def test_types_are_the_same_if_a_table_stores_them_alike(left: pa.DataType, right: pa.DataType, expected: bool) -> None:
    assert (same_type(left, right), same_type(right, left)) == (expected, expected)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (pa.schema([SCHEMA.field("id"), RUN_DATE_FIELD]), "only there: label"),
        (SCHEMA.set(0, pa.field("id", pa.string())), "id is int64 there and string here"),
        (SCHEMA.set(1, pa.field("Label", pa.string())), "only there: label; there in other letters: Label"),
        (SCHEMA.append(pa.field("when", pa.time64("us"))), r"a Delta table cannot hold 'when' \(.*Time64"),
        (
            pa.schema([*SCHEMA, pa.field("when", pa.time64("us")), pa.field("took", pa.duration("s"))]),
            r"cannot hold 'when' \(.*\), 'took' \(.*Duration",
        ),
    ],
)
def test_what_would_change_a_column_is_refused_with_the_way_out(
    schema: pa.Schema, message: str, tmp_path: Path
) -> None:
    publish(tmp_path, FIRST, SCHEMA, {"id": 1, "label": "a"})
    with pytest.raises(OutputTakenError, match=message) as caught:
        check_table_target(str(tmp_path), schema, STORAGE)
    assert "corpus" in caught.value.remedy
    assert DeltaTable(tmp_path).version() == 1
