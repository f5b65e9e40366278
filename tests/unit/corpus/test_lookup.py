from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.lookup import read_rows_at
from pipeline.errors import CorpusError
from pipeline.storage import Storage

ROWS = pa.table({"text": list("abcdef"), "doc": [{"body": str(number)} for number in range(6)]})


def rows_of(folder: Path, columns: list[str], **extra: Any) -> dict[str, list[Any]]:
    """Rows 1, 2 and 5 of a file in a folder, in row groups of two rows."""
    folder.mkdir(parents=True)
    pq.write_table(
        pa.table({**dict(zip(ROWS.column_names, ROWS.columns, strict=True)), **extra}), folder / "a.parquet", 2
    )
    return read_rows_at(str(folder / "a.parquet"), [1, 2, 5], columns, Storage()).to_pydict()


def test_rows_are_found_by_their_numbers(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "x", ["doc.body", "text"]) == {"doc.body": ["1", "2", "5"], "text": ["b", "c", "f"]}


def test_a_hive_key_is_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "domain=a%2Fb" / "day=__HIVE_DEFAULT_PARTITION__"
    assert rows_of(folder, ["domain", "text"]) == {"domain": ["a/b"] * 3, "text": ["b", "c", "f"]}
    (alone,) = read_rows_at(str(folder / "a.parquet"), [1, 2, 5], ["day"], Storage()).columns
    assert (alone.type, alone.to_pylist()) == (pa.string(), [None] * 3)


def test_a_column_of_the_file_hides_a_hive_key_and_a_key_hides_a_field(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "doc.body=x", ["doc.body"]) == {"doc.body": ["x"] * 3}
    assert rows_of(tmp_path / "text=x", ["text"]) == {"text": ["b", "c", "f"]}


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no column 'body'; it has text, doc, domain") as caught:
        rows_of(tmp_path / "domain=x", ["body"])
    assert caught.value.remedy == "name a column that it has"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string_view(), list("uvwxyz")),
        (pa.binary_view(), [b"u", None, b"w", b"x", b"y", b"z"]),
        (pa.list_(pa.string_view()), [["u"], ["v", None], None, [], [], ["z"]]),
        (pa.large_list(pa.string_view()), [["u"], ["v", None], None, [], [], ["z"]]),
        (pa.list_(pa.string_view(), 1), [["u"], [None], None, ["x"], ["y"], ["z"]]),
        (pa.map_(pa.string_view(), pa.string_view()), [[("u", "1")], None, [("w", None)], [], [], [("z", "2")]]),
    ],
)
def test_rows_of_views_are_found_too(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    found = rows_of(tmp_path / "x", ["seen"], seen=pa.array(values, kind))
    assert found == {"seen": [values[1], values[2], values[5]]}
