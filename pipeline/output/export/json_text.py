"""Arrow values as JSON text, computed column by column: what CSV has for lists, structs and maps.

Numbers are the shortest text that gives the same float again; JSON has no NaN or infinity, they become null.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import is_list


def to_json(values: pa.Array) -> pa.Array:
    """JSON text for each value of an array, null for null."""
    kind = values.type
    if pa.types.is_map(kind):
        entry = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        return to_json(values.cast(pa.list_(entry)))
    if is_list(kind):
        return _lists(values)
    if pa.types.is_struct(kind):
        return _structs(values)
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(values), values, None).cast(pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _quoted(to_base64(values))
    return _quoted(values.cast(pa.string()))


def to_base64(values: pa.Array) -> pa.Array:
    """Base64 text for each value of a binary array."""
    encoded = (None if item is None else base64.b64encode(item).decode() for item in values.to_pylist())
    return pa.array(encoded, pa.string())


def _inner(values: pa.Array) -> pa.Array:
    return pc.fill_null(to_json(values), "null")


def _lists(values: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    # flatten() leaves out what stands behind nulls and outside of slices, so offsets are made anew
    texts = pa.LargeListArray.from_arrays(offsets, _inner(values.flatten()))
    return _wrapped(values, "[", pc.binary_join(texts, ","), "]")


def _structs(values: pa.Array) -> pa.Array:
    keys = [f"{json.dumps(field.name, ensure_ascii=False)}:" for field in values.type]
    pairs = zip(keys, values.flatten(), strict=True)
    columns = [pc.binary_join_element_wise(key, _inner(column), "") for key, column in pairs]
    body = pc.binary_join_element_wise(*columns, ",") if columns else ""
    return _wrapped(values, "{", body, "}")


def _wrapped(values: pa.Array, start: str, body: pa.Array | str, end: str) -> pa.Array:
    text = pc.binary_join_element_wise(start, body, end, "")
    return pc.if_else(pc.is_valid(values), text, pa.scalar(None, pa.string()))


def _quoted(texts: pa.Array) -> pa.Array:
    return pa.array(_dump_all(texts.to_pylist()), pa.string())


def _dump_all(texts: Iterable[str | None]) -> Iterable[str | None]:
    return (None if text is None else json.dumps(text, ensure_ascii=False) for text in texts)
