"""A corpus column -> text the tokenizer can take, and a reason for every row that is not."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.nested import as_list
from pipeline.schema import is_list, is_text

NULL_TEXT = "text is null"
BLANK_TEXT = "text is blank"
NOT_UTF8 = "text is not valid UTF-8"


@dataclass(frozen=True)
class CleanText:
    """Text of some rows, and why a row has none.

    Attributes:
        values: large_string array [rows]; null exactly where `reasons` is set.
        reasons: string array [rows]; null for usable rows.
    """

    values: pa.Array
    reasons: pa.Array


def clean_text(column: pa.Array, quarantine_blank: bool) -> CleanText:
    """Turn a column of any type into text, never raising for a row.

    Strings of every Arrow kind and dictionaries of them are text as they are; binary is decoded as UTF-8; a list of
    strings is text joined by single spaces (white space inside a word becomes a no-break space, so that splitting at
    spaces gives the words back);
    any other type makes every row of it a bad row, with the type in the reason.

    Args:
        column: The corpus column, one chunk.
        quarantine_blank: Whether empty and whitespace-only text is a bad row.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_word_list(column.type):
        column = _join_words(column)
    if not (is_text(column.type) or _is_binary(column.type)):
        reason = f"text is {column.type}, not a string"
        nulls = pc.is_null(column)
        return CleanText(pa.nulls(len(column), pa.large_string()), pc.if_else(nulls, NULL_TEXT, reason))
    values, broken = _decode(column)
    reasons = pc.if_else(pc.is_null(column), pa.scalar(NULL_TEXT), pa.scalar(None, pa.string()))
    reasons = pc.if_else(broken, pa.scalar(NOT_UTF8), reasons)
    if quarantine_blank:
        blank = pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0), False)
        reasons = pc.if_else(blank, pa.scalar(BLANK_TEXT), reasons)
        values = pc.if_else(blank, pa.scalar(None, values.type), values)
    return CleanText(values, reasons)


def find_broken_text(column: pa.ChunkedArray, name: str) -> pa.Array:
    """A reason for every row of a column that holds, at any depth, a string that is not UTF-8.

    Parquet files hold such strings, Arrow passes them on unseen, and a reader of the table fails on the whole file.

    Returns:
        string array [rows]; null for sound rows.
    """
    if _is_valid(column):
        return pa.nulls(len(column), pa.string())
    # taken, not sliced: a slice of a nested array is checked with all of its children
    rows = (chunk.take(pa.array([row])) for chunk in column.chunks for row in range(len(chunk)))
    sound = pa.array([_is_valid(row) for row in rows], pa.bool_())
    return pc.if_else(sound, pa.scalar(None, pa.string()), f"{name} is not valid UTF-8")


def _is_valid(column: pa.Array | pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_word_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of words."""
    if not is_list(kind):
        return False
    word = kind.value_type
    return is_text(word.value_type if pa.types.is_dictionary(word) else word) or bool(pa.types.is_null(word))


def is_untold(kind: pa.DataType) -> bool:
    """Whether a column of this type, of nulls or of lists without a word, may be of text as well as of words."""
    return bool(pa.types.is_null(kind.value_type if is_list(kind) else kind))


def _join_words(column: pa.Array) -> pa.Array:
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        column = as_list(column)
    elif pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    words = pc.list_flatten(column).cast(pa.string())
    words = pc.replace_substring_regex(words, pattern=r"\s", replacement="\u00a0")
    lists = pa.ListArray.from_arrays(_offsets(column), words, mask=pc.is_null(column) if column.null_count else None)
    joined = pc.binary_join(lists, " ")  # null where a word is null
    return pc.if_else(pc.is_null(column), pa.scalar(None, pa.string()), joined)


def _offsets(column: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int32())
    return pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view()) or bool(pa.types.is_fixed_size_binary(kind))


def _decode(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(large_string values with null where broken, boolean broken); whole-column check first, it is the rule."""
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()), pa.repeat(pa.scalar(False), len(column))
    except pa.ArrowInvalid:
        decoded = [_decode_one(value) for value in raw.to_pylist()]
        values = pa.array([text for text, _ in decoded], pa.large_string())
        return values, pa.array([bad for _, bad in decoded], pa.bool_())


def _decode_one(value: bytes | None) -> tuple[str | None, bool]:
    if value is None:
        return None, False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return None, True
