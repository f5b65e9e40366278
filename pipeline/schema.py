"""The columns bertmill adds to a scored table: names and Arrow types, in the order they are written.

`run_date` is the table's partition column: Delta keeps it beside the file, not in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

SOURCE_FILE = "source_file"
SOURCE_ROW = "source_row"
SOURCE_FOOTER = "bertmill.source_file"  # in the Parquet footer of a file whose rows are all of one corpus file
FINGERPRINT_FOOTER = "bertmill.fingerprint"  # in the Parquet footer of every scored file
MODEL_VERSION_FOOTER = "bertmill.model_version"  # the same
RUN_ID_FOOTER = "bertmill.run_id"  # the same; of a compacted file those of all its parts, with commas
UUID = "arrow.uuid"
RUN_DATE = "run_date"
QUARANTINE = "_quarantine"  # below a table: the Delta table of the rows that could not be scored
CURRENT = "_current"  # below a table whose nights hold what is new: which night holds each corpus file
REPORTS = "_reports"  # below a table: a page for each night
PROFILES = "_profiles"  # below a table: traces of runs that were asked for them
EMBEDDING = "embedding"
BESIDE = b"bertmill.beside"  # on columns of a bundle that scores beside others in a comparison night: its name
_NOT_IN_NAMES = re.compile(r"[.\s,;{}()=]")
_DELTA_DIGITS = 38

SOURCE_FIELDS = (
    pa.field(SOURCE_FILE, pa.string(), nullable=False),
    pa.field(SOURCE_ROW, pa.int64(), nullable=False),
)
# Plain list<float32>: fixed-size lists break Polars on Delta, float16 breaks Spark and Trino. The child is
# named "element" because that is what the Parquet and Delta specifications call it.
EMBEDDING_TYPE = pa.list_(pa.field("element", pa.float32()))
SCORES_TYPE = pa.list_(pa.field("element", pa.float32()))
EMBEDDING_FIELD = pa.field(EMBEDDING, EMBEDDING_TYPE)
ACCOUNT_FIELDS = (
    pa.field("num_tokens", pa.int32(), nullable=False),
    pa.field("truncated", pa.bool_(), nullable=False),
    pa.field("num_windows", pa.int32(), nullable=False),
)
MODEL_VERSION_FIELD = pa.field("model_version", pa.string(), nullable=False)
RUN_ID_FIELD = pa.field("run_id", pa.string(), nullable=False)
RUN_FIELDS = (MODEL_VERSION_FIELD, RUN_ID_FIELD)
RUN_DATE_FIELD = pa.field(RUN_DATE, pa.date32(), nullable=False)

QUARANTINE_SCHEMA = pa.schema(
    [*SOURCE_FIELDS, pa.field("reason", pa.string(), nullable=False), *RUN_FIELDS, RUN_DATE_FIELD]
)

RESERVED_COLUMNS = frozenset(
    [field.name for field in (*SOURCE_FIELDS, EMBEDDING_FIELD, *ACCOUNT_FIELDS, *RUN_FIELDS, RUN_DATE_FIELD)]
)


@dataclass(frozen=True)
class BundleFields:
    """What one bundle adds to a table: its task's columns, and the embedding if that is written.

    `name` is empty for a bundle that scores alone; several bundles prefix their columns by their names. Columns of one
    that scores `beside` the others are marked as such, and null in other nights.
    """

    name: str
    task_fields: tuple[pa.Field, ...]
    with_embedding: bool
    beside: bool = False

    @property
    def fields(self) -> list[pa.Field]:
        """The columns, under the names they have in the table."""
        embedding = [EMBEDDING_FIELD] if self.with_embedding else []
        plain = [*self.task_fields, *embedding, *ACCOUNT_FIELDS, MODEL_VERSION_FIELD]
        named = [field.with_name(prefixed(self.name, field.name)) for field in plain]
        mark = {BESIDE: self.name.encode()}
        return [field.with_nullable(True).with_metadata(mark) for field in named] if self.beside else named


def prefixed(bundle_name: str, column: str) -> str:
    """A bundle's column as the table names it: `intent_label`; as it is for a bundle that scores alone."""
    return f"{bundle_name}_{column}" if bundle_name else column


def scored_schema(kept: pa.Schema, bundles: Sequence[BundleFields]) -> pa.Schema:
    """The schema of a scored table.

    Args:
        kept: The corpus columns that are copied through.
        bundles: What each bundle adds.
    """
    added = [field for bundle in bundles for field in bundle.fields]
    return pa.schema([*SOURCE_FIELDS, *kept, *added, RUN_ID_FIELD, RUN_DATE_FIELD])


def file_schema(table_schema: pa.Schema) -> pa.Schema:
    """What stands in a Parquet file of the table: everything but the partition column."""
    return pa.schema([field for field in table_schema if field.name != RUN_DATE])


def written_name(name: str) -> str:
    """The name of a kept column in the table: dots (`doc.body`), white space and `,;{}()=` become `_`.

    SQL reads a dot as a step into a struct; the others no column of a Delta table may have, by its protocol.
    """
    return _NOT_IN_NAMES.sub("_", name)


def kept_field(field: pa.Field) -> pa.Field:
    """How a corpus column is stored: types every reader knows, always nullable.

    Dictionaries are decoded, large and view types narrowed and numbers widened to 64 bits (decimals to 128), so that
    files (and nights) that differ only in such ways give one table schema. UUIDs are written as text. What stands in
    lists, structs and maps keeps the width of its numbers. Nulls stay nulls: another file may tell what they are.
    """
    return pa.field(field.name, _widened(_plain_type(field.type)), nullable=True)


def told_field(field: pa.Field) -> pa.Field:
    """A kept column of a whole corpus: what no file tells the type of, at any depth, is text, as it may be tomorrow."""
    return field.with_type(_told_type(field.type))


def reads_as(kind: pa.DataType, told: pa.DataType) -> bool:
    """Whether a corpus column of one type can be written as another, which a table has, and loses nothing by it.

    It is stored as that anyway, or holds nulls alone, or numbers that are all among the other's: 32-bit integers are
    doubles, 64-bit ones are not. The same goes for what stands in lists, structs and maps.
    """
    types = pa.types
    if types.is_null(kind):
        return True
    if types.is_dictionary(kind):
        return reads_as(kind.value_type, told)
    if is_list(kind) and is_list(told):
        return reads_as(kind.value_type, told.value_type)
    if types.is_struct(kind) and types.is_struct(told):
        return kind.names == told.names and all(map(reads_as, _types_in(kind), _types_in(told)))
    if types.is_map(kind) and types.is_map(told):
        return reads_as(kind.key_type, told.key_type) and reads_as(kind.item_type, told.item_type)
    if types.is_decimal(kind) and types.is_decimal(told):
        return bool(kind.scale <= told.scale and kind.precision - kind.scale <= told.precision - told.scale)
    if types.is_floating(told) or (types.is_integer(kind) and types.is_integer(told)):
        return 0 < _exact_bits(kind) <= _exact_bits(told)
    return bool(_plain_type(kind) == _plain_type(told))


def _types_in(struct: pa.StructType) -> list[pa.DataType]:
    return [field.type for field in struct]


def _exact_bits(kind: pa.DataType) -> int:
    """Up to which power of two all integers are in a type; 0 for what is no binary number."""
    if pa.types.is_floating(kind):
        return {16: 11, 32: 24, 64: 53}[kind.bit_width]
    return kind.bit_width - pa.types.is_signed_integer(kind) if pa.types.is_integer(kind) else 0


def _told_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(kind.value_field.with_type(_told_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([told_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_told_type(kind.key_type), _told_type(kind.item_type))
    return kind


def _widened(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(kind):
        return pa.float64()
    return pa.int64() if pa.types.is_integer(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's five kinds of list."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's three kinds of string."""
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def holds_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of floating-point numbers."""
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if kind.extension_name == UUID else _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if is_text(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if pa.types.is_unsigned_integer(kind):
        return pa.int64()
    if pa.types.is_decimal(kind) and kind.precision <= _DELTA_DIGITS:
        return pa.decimal128(kind.precision, kind.scale)
    if is_list(kind):
        return pa.list_(pa.field("element", _plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    return kind
