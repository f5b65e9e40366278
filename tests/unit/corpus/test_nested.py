from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from pipeline.corpus.nested import column_at, field_at, find_path
from pipeline.schema import kept_field

DOC = pa.struct([("body", pa.large_string()), ("meta", pa.struct([("lang", pa.string())])), ("a.b", pa.int8())])
SCHEMA = pa.schema([("id", pa.int64()), ("doc", DOC), ("texts", pa.list_(DOC)), ("x.y", DOC), ("doc.top", pa.int8())])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("id", ("id",)),
        ("doc", ("doc",)),
        ("doc.body", ("doc", "body")),
        ("doc.meta.lang", ("doc", "meta", "lang")),
        ("doc.a.b", ("doc", "a.b")),
        ("x.y.body", ("x.y", "body")),
        ("x.y.a.b", ("x.y", "a.b")),
        ("doc.top", ("doc.top",)),
        ("texts.body", None),
        ("texts.list.element.body", None),
        ("doc.title", None),
        ("id.body", None),
        ("doc.", None),
        ("", None),
    ],
)
def test_a_column_is_found_by_name_or_dotted_path(name: str, path: tuple[str, ...] | None) -> None:
    assert find_path(SCHEMA, name) == path


def test_a_doubled_name_is_found_in_neither_place() -> None:
    twice = pa.struct([("body", pa.string()), ("body", pa.string())])
    assert find_path(pa.schema([("doc", twice)]), "doc.body") is None
    assert find_path(pa.schema([("doc", DOC), ("doc", DOC)]), "doc.body") is None


def test_a_field_carries_the_name_asked_for() -> None:
    assert field_at(SCHEMA, ("doc", "body"), "doc.body") == pa.field("doc.body", pa.large_string())


def test_a_null_struct_gives_null_fields() -> None:
    rows = [{"body": "x", "meta": {"lang": "en"}}, None, {"body": None, "meta": None}]
    table = pa.table({"doc": pa.chunked_array([pa.array(rows[:1], DOC), pa.array(rows[1:], DOC)])})
    assert column_at(table, ("doc", "body")).to_pylist() == ["x", None, None]
    assert column_at(table, ("doc", "meta", "lang")).to_pylist() == ["en", None, None]
    assert column_at(table.slice(1), ("doc", "body")).to_pylist() == [None, None]


ONE, TWO, THREE = (uuid.UUID(int=number) for number in (1, 2, 3))
BYTES = [ONE.bytes, None, TWO.bytes, THREE.bytes]
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array(BYTES, pa.binary(16)))
LISTS = pa.ListArray.from_arrays(pa.array([0, 2, None, 3, 4]), UUIDS)
STRUCTS = pa.StructArray.from_arrays([UUIDS, pa.array([1, 2, 3, 4])], ["key", "n"], mask=pa.array([False] * 3 + [True]))
PAIRS = [[str(ONE), None], [str(TWO), str(THREE)]]
FIELDS = [{"key": str(ONE), "n": 1}, {"key": None, "n": 2}, {"key": str(TWO), "n": 3}]


@pytest.mark.parametrize(
    ("column", "spelled"),
    [
        (UUIDS, [str(ONE), None, str(TWO), str(THREE)]),
        (LISTS, [[str(ONE), None], [str(TWO)], None, [str(THREE)]]),
        (pa.LargeListArray.from_arrays(pa.array([0, 2, 4], pa.int64()), UUIDS), PAIRS),
        (pa.FixedSizeListArray.from_arrays(UUIDS, 2), PAIRS),
        (STRUCTS, [*FIELDS, None]),
        (pa.ListArray.from_arrays(pa.array([0, 1, None, 3]), STRUCTS), [FIELDS[:1], FIELDS[1:], None]),
        (
            pa.MapArray.from_arrays(pa.array([0, 2, None, 3]), pa.array(["a", "b", "c", "d"]), UUIDS),
            [[("a", str(ONE)), ("b", None)], [("c", str(TWO))], None],
        ),
    ],
)
def test_uuids_are_spelled_out_at_any_depth(column: pa.Array, spelled: list[object]) -> None:
    stored = kept_field(pa.field("id", column.type)).type
    for start in range(len(column)):
        values = column_at(pa.table({"id": column.slice(start)}), ("id",)).cast(stored)
        values.validate(full=True)
        assert values.to_pylist() == spelled[start:]
