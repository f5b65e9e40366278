"""clean_text never raises for a row, and every row has either text or a reason."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.text import BLANK_TEXT, NOT_UTF8, NULL_TEXT, clean_text

TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string()))
BINARY_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int16(), pa.binary()))
OTHER_VALUES = (
    (pa.int64(), st.integers(-5, 5)),
    (pa.float32(), st.floats(width=32)),
    (pa.bool_(), st.booleans()),
    (pa.list_(pa.string()), st.lists(st.text(max_size=3), max_size=2)),
    (pa.struct([("text", pa.string())]), st.fixed_dictionaries({"text": st.text(max_size=3)})),
    (pa.dictionary(pa.int8(), pa.int64()), st.integers(-5, 5)),
    (pa.timestamp("ns"), st.integers(0, 10**9)),
)
BLANKS = st.text(alphabet=" \t\n\r\u00a0\u3000", max_size=3)


def column(kind: pa.DataType, values: st.SearchStrategy) -> st.SearchStrategy[pa.Array]:
    rows = st.lists(st.one_of(st.none(), values), max_size=12)
    return st.tuples(rows, st.integers(0, 3)).map(lambda drawn: pa.array(drawn[0], kind).slice(drawn[1]))


TEXT_COLUMNS = st.one_of([column(kind, st.one_of(st.text(max_size=8), BLANKS)) for kind in TEXT_TYPES])
BINARY_COLUMNS = st.one_of([column(kind, st.binary(max_size=6)) for kind in BINARY_TYPES])
OTHER_COLUMNS = st.one_of([column(kind, values) for kind, values in OTHER_VALUES])


@given(st.one_of(TEXT_COLUMNS, BINARY_COLUMNS, OTHER_COLUMNS), st.booleans())
def test_a_row_has_text_exactly_when_it_has_no_reason(array: pa.Array, quarantine_blank: bool) -> None:
    clean = clean_text(array, quarantine_blank)
    assert clean.values.type == pa.large_string()
    assert clean.reasons.type == pa.string()
    assert len(clean.values) == len(clean.reasons) == len(array)
    values, reasons = clean.values.to_pylist(), clean.reasons.to_pylist()
    assert [value is None for value in values] == [reason is not None for reason in reasons]
    assert [reason == NULL_TEXT for reason in reasons] == [value is None for value in array.to_pylist()]


@given(column(pa.list_(pa.string()), st.lists(st.text(max_size=4), min_size=1, max_size=4)))
def test_words_come_back_by_splitting_at_spaces(array: pa.Array) -> None:
    texts = clean_text(array, quarantine_blank=False).values.to_pylist()
    for words, text in zip(array.to_pylist(), texts, strict=True):
        kept = words and ["".join("\u00a0" if letter in " \t\n\r\f" else letter for letter in word) for word in words]
        assert (text is None and words is None) or text.split(" ") == kept


@given(TEXT_COLUMNS)
def test_text_comes_out_as_it_is(array: pa.Array) -> None:
    assert clean_text(array, quarantine_blank=False).values.to_pylist() == array.to_pylist()


@given(TEXT_COLUMNS)
def test_blank_text_is_a_bad_row_only_where_the_policy_says_so(array: pa.Array) -> None:
    reasons = clean_text(array, quarantine_blank=True).reasons.to_pylist()
    for text, reason in zip(array.to_pylist(), reasons, strict=True):
        is_blank = text is not None and not text.strip(" \t\n\r\u00a0\u3000")
        assert (reason == BLANK_TEXT) or not is_blank
        assert (text is not None and not text.strip()) or reason != BLANK_TEXT
    assert BLANK_TEXT not in clean_text(array, quarantine_blank=False).reasons.to_pylist()


@given(BINARY_COLUMNS)
def test_binary_is_decoded_row_by_row(array: pa.Array) -> None:
    clean = clean_text(array, quarantine_blank=False)
    for raw, text, reason in zip(array.to_pylist(), clean.values.to_pylist(), clean.reasons.to_pylist(), strict=True):
        if reason == NOT_UTF8:
            assert raw.decode("utf-8", "replace") != raw.decode("utf-8", "ignore")
        elif raw is not None:
            assert text == raw.decode("utf-8")


@given(st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=1, max_size=8))
def test_a_string_column_with_broken_bytes_is_no_exception(rows: list[bytes | None]) -> None:
    broken = pa.array(rows, pa.binary()).view(pa.string())
    same = pa.array(rows, pa.binary())
    assert clean_text(broken, quarantine_blank=True) == clean_text(same, quarantine_blank=True)
