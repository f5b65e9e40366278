"""Nested columns of a CSV export come back from their JSON, whatever they hold and wherever a batch begins."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.export.json_text import to_json

ENTITY = pa.struct([pa.field("text", pa.string()), pa.field("start", pa.int32()), pa.field("score", pa.float64())])
entities = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(alphabet='aé"\\\n\x00😀,', max_size=4),
        "start": st.none() | st.integers(-5, 5),
        "score": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    }
)
rows = st.lists(st.none() | st.lists(st.none() | entities, max_size=2), max_size=4)


@given(rows=rows, start=st.integers(0, 2))
def test_any_nested_rows_come_back_also_out_of_a_slice(rows: list[Any], start: int) -> None:
    texts = to_json(pa.array(rows, pa.list_(ENTITY)).slice(start)).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == rows[start:]


@given(numbers=st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4), max_size=5))
def test_floats_come_back_to_the_last_bit(numbers: list[list[float]]) -> None:
    texts = to_json(pa.array(numbers, pa.list_(pa.float32()))).to_pylist()
    found = [[float(np.float32(number)) for number in json.loads(text)] for text in texts]
    assert found == numbers
