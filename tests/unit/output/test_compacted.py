from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import AccountingError
from pipeline.output.compacted import (
    CompactedFile,
    note_uri,
    read_compacted,
    stand_in,
    standing_sizes,
    write_compacted,
)
from pipeline.storage import Storage

NIGHT = "2026-11-23"
STORAGE = Storage()
AB = CompactedFile("ab", 15, {"a": 10, "b": 20})
SIZES = {"a": 10, "b": 20, "c": 30, "ab": 15}


def test_a_note_is_read_as_it_was_written_and_can_be_replaced(tmp_path: Path) -> None:
    assert read_compacted(str(tmp_path), NIGHT, STORAGE) == []
    for note in (AB, replace(AB, are_retired=True)):
        write_compacted(str(tmp_path), NIGHT, note, STORAGE)
        (found,) = read_compacted(str(tmp_path), NIGHT, STORAGE)
        assert replace(found, noted_s=None) == note
        assert found.noted_s is not None
    assert read_compacted(str(tmp_path), "2026-11-24", STORAGE) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"path": "x", "size_bytes": 1, "parts": [], "are_retired": false}'])
def test_what_is_no_note_is_an_accounting_error(tmp_path: Path, text: str) -> None:
    uri = note_uri(str(tmp_path), NIGHT, "run_date=2026-11-23/x.parquet")
    STORAGE.write_bytes(uri, text.encode())
    with pytest.raises(AccountingError, match=r"x\.json: not a note on a compacted file"):
        read_compacted(str(tmp_path), NIGHT, STORAGE)


@pytest.mark.parametrize(
    ("wanted", "live", "expected"),
    [
        ("a b c", "ab c", "ab c"),
        ("a b", "ab c", "ab"),
        ("a c", "ab c", "a c"),  # one part is no longer wanted
        ("a b c", "a b c", "a b c"),  # not live: an older version's, or a compaction that never committed
        ("a b new", "ab c", "ab new"),
        ("", "ab", ""),
    ],
)
def test_a_live_compacted_file_stands_for_its_parts_if_all_are_wanted(wanted: str, live: str, expected: str) -> None:
    assert stand_in(wanted.split(), live.split(), [AB]) == set(expected.split())


def test_of_nested_compactions_the_live_one_stands() -> None:
    notes = [AB, CompactedFile("abc", 20, {"a": 10, "b": 20, "c": 30})]
    assert stand_in("abc", ["abc"], notes) == {"abc"}
    assert stand_in("abc", ["ab", "c"], notes) == {"ab", "c"}


def test_parts_count_as_standing_while_a_compacted_file_stands_for_them() -> None:
    gone = {path: size for path, size in SIZES.items() if path not in AB.parts}
    assert standing_sizes(gone, ["a", "b", "c"], ["ab", "c"], [AB]) == SIZES
    assert standing_sizes(gone, ["a", "b", "c"], ["c"], [AB]) == gone, "it is not live"
    assert standing_sizes(gone, ["a", "c"], ["ab", "c"], [AB]) == gone, "b is not wanted"
    assert standing_sizes({**gone, "ab": 14}, ["a", "b"], ["ab"], [AB]) == {**gone, "ab": 14}, "not the file noted"


def test_retired_parts_do_not_count_although_they_are_still_there() -> None:
    retired = replace(AB, are_retired=True)
    assert standing_sizes(SIZES, ["a", "c"], ["ab", "c"], [retired]) == {"c": 30, "ab": 15}
    assert standing_sizes(SIZES, ["a", "b", "c"], ["ab", "c"], [retired]) == SIZES
