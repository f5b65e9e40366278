from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.corpus.text import clean_text, find_broken_text


def cleaned(array: pa.Array, quarantine_blank: bool = True) -> list[tuple[str | None, str | None]]:
    clean = clean_text(array, quarantine_blank)
    return list(zip(clean.values.to_pylist(), clean.reasons.to_pylist(), strict=True))


def test_each_bad_row_has_its_own_reason() -> None:
    assert cleaned(pa.array([b"good", None, b"", b"\xff\xfe", "grüß".encode()])) == [
        ("good", None),
        (None, "text is null"),
        (None, "text is blank"),
        (None, "text is not valid UTF-8"),
        ("grüß", None),
    ]


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0\u2003", "\u3000"])
def test_whitespace_of_every_script_is_blank(blank: str) -> None:
    assert cleaned(pa.array([blank])) == [(None, "text is blank")]
    assert cleaned(pa.array([blank]), quarantine_blank=False) == [(blank, None)]


def test_text_is_not_trimmed() -> None:
    assert cleaned(pa.array(["  two words \n"])) == [("  two words \n", None)]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([1.5]), "text is double, not a string"),
        (pa.array([[1]]), "text is list<item: int64>, not a string"),
        (pa.array([[["a"]]]), "text is list<item: list<item: string>>, not a string"),
        (pa.array([{"a": 1}]), "text is struct<a: int64>, not a string"),
        (pa.array([1]).dictionary_encode(), "text is int64, not a string"),
        (pa.nulls(1), "text is null"),
    ],
)
def test_another_type_is_named_in_the_reason(array: pa.Array, reason: str) -> None:
    assert cleaned(array) == [(None, reason)]


def test_a_list_of_words_is_text_joined_by_single_spaces() -> None:
    words = pa.array([["gone"], ["a", "b c", "d\te\n"], ["", "x", ""], None, ["a", None], []])
    assert cleaned(words.slice(1)) == [
        ("a b\u00a0c d\u00a0e\u00a0", None),
        (" x ", None),
        (None, "text is null"),
        (None, "text is null"),
        (None, "text is blank"),
    ]


def test_lists_without_a_word_are_blank() -> None:
    lists = pa.array([[], None, [None]])
    assert lists.type == pa.list_(pa.null())
    assert cleaned(lists) == [(None, "text is blank"), (None, "text is null"), (None, "text is null")]


def test_fixed_size_binary_and_slices_are_text_too() -> None:
    assert cleaned(pa.array([b"ab", b"cd", None], pa.binary(2)).slice(1)) == [("cd", None), (None, "text is null")]


def test_no_rows_give_no_rows() -> None:
    assert cleaned(pa.array([], pa.string())) == cleaned(pa.array([], pa.int8())) == []


def test_broken_strings_are_found_at_any_depth() -> None:
    raw = pa.array([b"fine", b"\xff", None, b"\xed\xa0\x80"]).view(pa.string())
    column = pa.chunked_array([raw, raw.slice(1, 2)])
    reason = "name is not valid UTF-8"
    assert find_broken_text(column, "name").to_pylist() == [None, reason, None, reason, reason, None]
    structs = pa.chunked_array([pa.StructArray.from_arrays([raw], ["x"])])
    assert find_broken_text(structs, "name").to_pylist() == [None, reason, None, reason]
    lists = pa.chunked_array([pa.ListArray.from_arrays([0, 1, 3, 3, 4], raw)])
    assert find_broken_text(lists, "name").to_pylist() == [None, reason, None, reason]


def test_columns_without_broken_strings_have_no_reasons() -> None:
    for column in (pa.chunked_array([["a", None]]), pa.chunked_array([], pa.string()), pa.chunked_array([[b"\xff"]])):
        assert find_broken_text(column, "name").null_count == len(column)


def test_words_may_be_dictionary_encoded() -> None:
    words = pa.ListArray.from_arrays([0, 2, 3], pa.array(["a", "b", "a"]).dictionary_encode())
    assert clean_text(words, quarantine_blank=True).values.to_pylist() == ["a b", "a"]


@pytest.mark.parametrize("kind", [pa.list_view(pa.string()), pa.large_list_view(pa.string()), pa.list_(pa.string(), 2)])
def test_words_may_stand_in_any_kind_of_list(kind: pa.DataType) -> None:
    assert cleaned(pa.array([["a", "b c"], None], kind)) == [("a b\u00a0c", None), (None, "text is null")]
