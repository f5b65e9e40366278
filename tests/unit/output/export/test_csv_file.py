from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import Schema as DeltaSchema

from pipeline.output.export import csv_file
from pipeline.output.export.csv_file import write_csv
from pipeline.storage import Storage

ROWS = pa.table(
    {
        "text": ['a, "b"\nc', "", None],
        "day": pa.array([date(2026, 11, 23), None, None], pa.date32()),
        "score": pa.array([0.1, None, 2], pa.float32()),
        "raw": pa.array([b"\x00\xff", None, b""], pa.binary()),
        "scores": pa.array([[0.5, 0.25], [], None], pa.list_(pa.float32())),
    }
)


def test_rows_are_csv_with_json_for_nested_values_and_base64_for_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    written = write_csv(lambda: [ROWS], ROWS.schema, str(path), Storage())
    assert (written.num_rows, written.size_bytes) == (3, path.stat().st_size)
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["text", "day", "score", "raw", "scores"],
            ['a, "b"\nc', "2026-11-23", "0.1", "AP8=", "[0.5,0.25]"],
            ["", "", "", "", "[]"],
            ["", "", "2", "", ""],
        ]
    assert path.read_text().splitlines()[-2:] == ['"",,,,"[]"', ',,2,"",'], "null is nothing, an empty text is quotes"


def test_rows_are_written_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "_ROWS_AT_ONCE", 2)
    seen: list[int] = []
    real = csv_file.to_text

    def to_text(table: pa.Table) -> pa.Table:
        seen.append(table.num_rows)
        return real(table)

    monkeypatch.setattr(csv_file, "to_text", to_text)
    numbers = pa.table({"n": list(range(5))})
    assert write_csv(lambda: [numbers, numbers], numbers.schema, str(tmp_path / "n.csv"), Storage()).num_rows == 10
    assert max(seen) == 2
    assert (tmp_path / "n.csv").read_text().split() == ['"n"', *map(str, [*range(5), *range(5)])]


def test_a_file_whose_rows_fail_is_not_there(tmp_path: Path) -> None:
    def read_tables() -> Iterator[pa.Table]:
        yield ROWS
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_csv(read_tables, ROWS.schema, str(tmp_path / "rows.csv"), Storage())
    assert list(tmp_path.iterdir()) == []


def test_every_type_that_a_table_can_hold_has_a_form(tmp_path: Path) -> None:
    plain = [pa.bool_(), pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()]
    plain += [pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.decimal128(20, 3)]
    kinds = [*plain, *(pa.list_(kind) for kind in plain), *(pa.struct({"a": kind}) for kind in plain)]
    rows = pa.table({str(kind): pa.nulls(2, kind) for kind in [*kinds, pa.map_(pa.string(), pa.float64())]})
    assert DeltaSchema.from_arrow(rows.schema)
    assert write_csv(lambda: [rows], rows.schema, str(tmp_path / "rows.csv"), Storage()).num_rows == 2
    assert set((tmp_path / "rows.csv").read_text().splitlines()[1]) == {","}
