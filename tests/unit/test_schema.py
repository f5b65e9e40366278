from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.schema import (
    QUARANTINE_SCHEMA,
    RESERVED_COLUMNS,
    RUN_DATE,
    BundleFields,
    file_schema,
    kept_field,
    reads_as,
    scored_schema,
    told_field,
    written_name,
)

KEPT = pa.schema([pa.field("id", pa.string())])
TASK_FIELDS = (pa.field("label", pa.string()), pa.field("score", pa.float32()))
ALONE = BundleFields("", TASK_FIELDS, with_embedding=True)


def test_columns_stand_in_the_documented_order() -> None:
    with_embedding = scored_schema(KEPT, [ALONE])
    assert with_embedding.names == [
        *("source_file", "source_row", "id", "label", "score", "embedding"),
        *("num_tokens", "truncated", "num_windows", "model_version", "run_id", "run_date"),
    ]
    without = scored_schema(KEPT, [BundleFields("", TASK_FIELDS, with_embedding=False)])
    assert without.names == [name for name in with_embedding.names if name != "embedding"]


def test_the_partition_column_is_in_the_table_and_not_in_its_files() -> None:
    schema = scored_schema(KEPT, [ALONE])
    assert schema.field(RUN_DATE).type == pa.date32()
    assert file_schema(schema).names == schema.names[:-1]
    assert RUN_DATE not in file_schema(QUARANTINE_SCHEMA).names


def test_embeddings_are_plain_lists_of_float32() -> None:
    kind = scored_schema(KEPT, [BundleFields("", (), with_embedding=True)]).field("embedding").type
    assert pa.types.is_list(kind)
    assert kind.value_type == pa.float32()


def test_every_column_bertmill_writes_is_reserved() -> None:
    written = scored_schema(pa.schema([]), [BundleFields("", (), with_embedding=True)]).names
    assert set(written) == RESERVED_COLUMNS


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.string(), pa.string()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.large_binary(), pa.binary()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.dictionary(pa.int8(), pa.int64()), pa.int64()),
        (pa.int32(), pa.int64()),
        (pa.uint8(), pa.int64()),
        (pa.uuid(), pa.string()),
        (pa.json_(), pa.string()),
        (
            pa.struct([("a", pa.uint8()), ("b", pa.timestamp("ns"))]),
            pa.struct([("a", pa.int64()), ("b", pa.timestamp("us"))]),
        ),
        (
            pa.list_(pa.struct([("a", pa.large_string())])),
            pa.list_(pa.field("element", pa.struct([("a", pa.string())]))),
        ),
        (
            pa.map_(pa.large_string(), pa.list_(pa.int32())),
            pa.map_(pa.string(), pa.list_(pa.field("element", pa.int32()))),
        ),
        (pa.uint64(), pa.int64()),
        (pa.float16(), pa.float64()),
        (pa.float64(), pa.float64()),
        (pa.bool_(), pa.bool_()),
        (pa.date32(), pa.date32()),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.decimal128(10, 2), pa.decimal128(10, 2)),
        (pa.decimal64(10, 2), pa.decimal128(10, 2)),
        (pa.decimal256(38, 2), pa.decimal128(38, 2)),
        (pa.list_view(pa.string()), pa.list_(pa.field("element", pa.string()))),
        (pa.list_(pa.float16()), pa.list_(pa.field("element", pa.float32()))),
        (pa.large_list(pa.large_string()), pa.list_(pa.field("element", pa.string()))),
        (pa.list_(pa.float32(), 4), pa.list_(pa.field("element", pa.float32()))),
        (pa.list_(pa.list_(pa.uint8())), pa.list_(pa.field("element", pa.list_(pa.field("element", pa.int64()))))),
    ],
)
def test_a_kept_column_is_stored_as_a_type_every_reader_knows(kind: pa.DataType, stored: pa.DataType) -> None:
    field = kept_field(pa.field("column", kind, nullable=False, metadata={"a": "b"}))
    assert (field.name, field.type, field.nullable) == ("column", stored, True)
    assert field.metadata is None


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.null(), pa.string()),
        (pa.struct([("a", pa.int64()), ("b", pa.null())]), pa.struct([("a", pa.int64()), ("b", pa.string())])),
        (pa.list_(pa.null()), pa.list_(pa.field("element", pa.string()))),
        (pa.list_(pa.null(), 2), pa.list_(pa.field("element", pa.string()))),
        (
            pa.map_(pa.string(), pa.list_(pa.struct([("a", pa.null())]))),
            pa.map_(pa.string(), pa.list_(pa.field("element", pa.struct([("a", pa.string())])))),
        ),
    ],
)
def test_what_is_null_everywhere_is_stored_as_text_at_any_depth(kind: pa.DataType, stored: pa.DataType) -> None:
    assert told_field(kept_field(pa.field("column", kind))).type == stored


@pytest.mark.parametrize(
    ("kind", "told", "expected"),
    [
        (pa.null(), pa.list_(pa.struct([("a", pa.int64())])), True),
        (pa.dictionary(pa.int32(), pa.null()), pa.float64(), True),
        (pa.large_string(), pa.string(), True),
        (pa.uint64(), pa.int64(), False),
        (pa.uint32(), pa.float64(), True),
        (pa.int32(), pa.float64(), True),
        (pa.int64(), pa.float64(), False),
        (pa.float32(), pa.int64(), False),
        (pa.bool_(), pa.float64(), False),
        (pa.int64(), pa.string(), False),
        (pa.list_(pa.null()), pa.list_(pa.string()), True),
        (pa.list_(pa.int16()), pa.list_(pa.int32()), True),
        (pa.list_(pa.int32()), pa.list_(pa.int16()), False),
        (pa.list_(pa.int32()), pa.list_(pa.float32()), False),
        (pa.list_view(pa.float16()), pa.list_(pa.float32()), True),
        (pa.list_(pa.float64()), pa.list_(pa.float32()), False),
        (pa.list_(pa.int64()), pa.int64(), False),
        (pa.struct([("a", pa.null()), ("b", pa.int8())]), pa.struct([("a", pa.date32()), ("b", pa.float64())]), True),
        (pa.struct([("a", pa.null())]), pa.struct([("a", pa.date32()), ("b", pa.float64())]), False),
        (pa.struct([("b", pa.null()), ("a", pa.null())]), pa.struct([("a", pa.int64()), ("b", pa.int64())]), False),
        (pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.float64()), True),
        (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.float64()), False),
        (pa.decimal32(5, 2), pa.decimal128(9, 3), True),
        (pa.decimal128(5, 2), pa.decimal128(5, 3), False),
        (pa.decimal128(5, 2), pa.float64(), False),
        (pa.timestamp("ns"), pa.timestamp("us"), True),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), False),
    ],
)
def test_a_type_reads_as_another_that_holds_all_its_values(
    kind: pa.DataType, told: pa.DataType, expected: bool
) -> None:
    assert reads_as(kind, told) == expected


def test_several_bundles_prefix_what_each_of_them_adds() -> None:
    tone, search = BundleFields("tone", TASK_FIELDS, with_embedding=False), BundleFields("search", (), True)
    assert scored_schema(KEPT, [tone, search]).names == [
        *("source_file", "source_row", "id"),
        *("tone_label", "tone_score", "tone_num_tokens", "tone_truncated", "tone_num_windows", "tone_model_version"),
        *("search_embedding", "search_num_tokens", "search_truncated", "search_num_windows", "search_model_version"),
        *("run_id", "run_date"),
    ]


def test_a_prefix_changes_a_columns_name_and_nothing_else() -> None:
    plain, named = ALONE.fields, BundleFields("tone", TASK_FIELDS, with_embedding=True).fields
    assert [field.with_name(f"tone_{field.name}") for field in plain] == named


def test_a_kept_column_has_a_name_that_delta_takes() -> None:
    assert written_name("a.b c,d;e{f}(g)h=i\n\t") == "a_b_c_d_e_f__g_h_i__"
    assert written_name("100% \u00e9#?") == "100%_\u00e9#?"
