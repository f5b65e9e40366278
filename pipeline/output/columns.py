"""Which columns a night may bring to a table: new ones are added, and null in the nights before; none may change.

A night has every column of its table, but for those of bundles that scored beside its own in a comparison night: a mark
in the table's schema tells these, and the nights after leave them out.
"""

from __future__ import annotations

import pyarrow as pa
from deltalake import DeltaTable
from deltalake import Schema as DeltaSchema

from pipeline.errors import OutputTakenError, first_line
from pipeline.schema import BESIDE, is_list


def columns_of(table: DeltaTable) -> pa.Schema:
    """A table's columns."""
    return pa.schema(table.schema().to_arrow())


def check_types(uri: str, schema: pa.Schema) -> None:
    """Make sure that Delta has types for some columns.

    Raises:
        OutputTakenError: it has not.
    """
    refused = [f"{field.name!r} ({reason})" for field in schema if (reason := _why_not_in_delta(field))]
    if refused:
        raise OutputTakenError(
            f"{uri}: a Delta table cannot hold {', '.join(refused)}",
            "leave each such column out of corpus.keep, or store it in the corpus with a plainer type",
        )


def _why_not_in_delta(field: pa.Field) -> str | None:
    try:
        DeltaSchema.from_arrow(pa.schema([field]))
    except Exception as error:
        return first_line(error)
    return None


def new_columns(found: pa.Schema, wanted: pa.Schema, uri: str) -> list[pa.Field]:
    """The columns that a table lacks, as they would be added to it.

    Args:
        found: The table's columns.
        wanted: A night's.
        uri: The table.

    Raises:
        OutputTakenError: a column has another type, or the night lacks one.
    """
    missing = [name for name in found.names if name not in wanted.names and not _is_beside(found.field(name))]
    known = {name.lower() for name in found.names}
    respelt = [field.name for field in wanted if field.name not in found.names and field.name.lower() in known]
    changed = [
        f"{field.name} is {found.field(field.name).type} there and {field.type} here"
        for field in wanted
        if field.name in found.names and not same_type(found.field(field.name).type, field.type)
    ]
    parts = [
        f"only there: {', '.join(sorted(missing))}" if missing else "",
        f"there in other letters: {', '.join(sorted(respelt))}" if respelt else "",
        *sorted(changed),
    ]
    different = "; ".join(part for part in parts if part)
    if different:
        raise OutputTakenError(
            f"{uri}: the table there has other columns than this run would write ({different})",
            "columns may be added to a table, not changed or left out: give the spec the same task, `keep` and "
            "`embedding` as before, have the corpus's column in its old type, or write to another `output.uri`",
        )
    return [field.with_nullable(True) for field in wanted if field.name not in found.names]


def same_type(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether Delta stores both alike: large and view types are its plain ones, parts of lists and maps have no names.

    Parquet names a map's values after the column.
    """
    if is_list(left) and is_list(right):
        return same_type(left.value_type, right.value_type)
    if pa.types.is_map(left) and pa.types.is_map(right):
        return same_type(left.key_type, right.key_type) and same_type(left.item_type, right.item_type)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return len(left) == len(right) and all(map(_same_field, left, right))
    return str(left).replace("large_", "").replace("_view", "") == str(right).replace("large_", "").replace("_view", "")


def _same_field(left: pa.Field, right: pa.Field) -> bool:
    return (left.name, left.nullable) == (right.name, right.nullable) and same_type(left.type, right.type)


def _is_beside(field: pa.Field) -> bool:
    return BESIDE in (field.metadata or {})
