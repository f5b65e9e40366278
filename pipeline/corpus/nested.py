"""Columns by name: at the top of a file, or a field inside struct columns by its dotted path (`doc.body`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import UUID, is_list


def find_path(fields: pa.Schema | pa.StructType, name: str) -> tuple[str, ...] | None:
    """Where a column stands: its name, or the names from a struct column down to the field; None if nowhere.

    A column of that very name wins over a nested field. Lists and maps are not looked into. A name that stands
    twice in one place is found in neither.
    """
    names = [field.name for field in fields]
    if names.count(name) == 1:
        return (name,)
    parts = name.split(".")
    for length in range(1, len(parts)):
        head, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if names.count(head) == 1 and pa.types.is_struct(fields.field(head).type):
            below = find_path(fields.field(head).type, rest)
            if below is not None:
                return (head, *below)
    return None


def field_at(schema: pa.Schema, path: tuple[str, ...], name: str) -> pa.Field:
    """The field at a path of `find_path`, under another name."""
    kind = schema.field(path[0]).type
    for part in path[1:]:
        kind = kind.field(part).type
    return pa.field(name, kind)


def column_at(table: pa.Table, path: tuple[str, ...]) -> pa.ChunkedArray:
    """The values at a path of `find_path`; null where any struct above them is null.

    UUIDs are spelled out at any depth, other extension types (JSON) are what they are stored as, list views are lists,
    and views of text or bytes, of which Arrow can take no rows, are large text or bytes at any depth.
    """
    column = table[path[0]]
    for part in path[1:]:
        column = pc.struct_field(column, [column.type.get_field_index(part)])
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        column = pa.chunked_array([as_list(chunk) for chunk in column.chunks], pa.list_(column.type.value_type))
    if (without_views := _without_views(column.type)) != column.type:
        column = column.cast(without_views)
    if _holds_uuids(column.type):
        return pa.chunked_array([_spell(chunk) for chunk in column.chunks], _spell(pa.nulls(0, column.type)).type)
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def as_list(lists: pa.Array, values: pa.Array | None = None) -> pa.ListArray:
    """Lists of any kind as plain ones, of other values if these are given.

    Arrow's own cast of list views can leave them with too few offsets.
    """
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int32)
    mask = pc.is_null(lists) if lists.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), lists.flatten() if values is None else values, mask=mask)


def _without_views(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if kind == pa.string_view():
        return pa.large_string()
    if kind == pa.binary_view():
        return pa.large_binary()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_without_views(kind.key_type), _without_views(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = kind.value_field.with_type(_without_views(kind.value_type))
        if types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if types.is_large_list(kind) else pa.list_(item)
    return kind


def _holds_uuids(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return bool(kind.extension_name == UUID)
    return any(_holds_uuids(kind.field(index).type) for index in range(kind.num_fields))


def _spell(values: pa.Array) -> pa.Array:
    """UUIDs at any depth as text, which Arrow's casts do not make of them."""
    kind = values.type
    if not _holds_uuids(kind):
        return values
    if pa.types.is_struct(kind):
        fields = [_spell(values.field(index)) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, kind.names, mask=pc.is_null(values))
    if pa.types.is_map(kind):
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        lists = _spell(values.cast(pa.list_(entries)))
        mask = pc.is_null(values) if values.null_count else None
        return pa.MapArray.from_arrays(lists.offsets, lists.values.field(0), lists.values.field(1), mask=mask)
    if is_list(kind):
        is_void = values.null_count == len(values)  # Arrow makes no empty array of UUIDs inside of structs
        return as_list(values, _spell(pa.nulls(0, kind.value_type) if is_void else values.flatten()))
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
