from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pytest

from pipeline.output.export.json_text import to_json


def test_floats_are_as_short_as_they_can_be() -> None:
    assert to_json(pa.array([[0.1, 1.0, 2.5e-9]], pa.list_(pa.float32()))).to_pylist() == ["[0.1,1,2.5e-9]"]


def test_what_json_has_no_number_for_is_null() -> None:
    values = pa.array([[math.nan, math.inf, -math.inf, None, 1.5]], pa.list_(pa.float32()))
    assert json.loads(to_json(values)[0].as_py()) == [None, None, None, None, 1.5]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([[True, None], []], pa.list_(pa.bool_()), [[True, None], []]),
        ([[[1], None], None], pa.list_(pa.list_(pa.int64())), [[[1], None], None]),
        ([[1.5, 2.5], None], pa.list_(pa.float32(), 2), [[1.5, 2.5], None]),
        ([[1.5], None], pa.list_view(pa.float32()), [[1.5], None]),
        ([{"a": {"b": 'x\n"y" é'}}, {"a": None}], pa.struct({"a": pa.struct({"b": pa.string()})}), None),
        (
            [[("k", 1), ("l", None)]],
            pa.map_(pa.string(), pa.int64()),
            [[{"key": "k", "value": 1}, {"key": "l", "value": None}]],
        ),
        ([[b"\x00\xff"]], pa.list_(pa.binary()), [["AP8="]]),
        ([[0]], pa.list_(pa.date32()), [["1970-01-01"]]),
        ([{}, None], pa.struct([]), [{}, None]),
    ],
)
def test_every_kind_of_value_has_its_json(values: list[Any], kind: pa.DataType, expected: list[Any] | None) -> None:
    texts = to_json(pa.array(values, kind)).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == (expected or values)
