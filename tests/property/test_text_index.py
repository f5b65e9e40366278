"""The index finds what a dictionary finds, and groups of equal texts are those of a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.texts import HashArray, HashedFile, TextIndex, group_equal

Rows = list[tuple[int, int]]
PAIRS = st.sampled_from([(0, 0), (8191, 7), (7, 8191), (2**63, 7), (2**64 - 1, 0), (2**64 - 2, 2**64 - 1), (1, 1)])
ROWS = st.lists(PAIRS, max_size=30)
PARTS = st.lists(ROWS | st.none(), max_size=4)


def as_hashes(rows: Rows) -> HashArray:
    return np.array(rows, np.uint64).reshape(-1, 2)


@given(PARTS, ROWS)
def test_the_index_is_a_dictionary_of_first_places(parts: list[Rows | None], asked: Rows) -> None:
    files = [HashedFile(f"file-{number}", len(part or ())) for number, part in enumerate(parts)]
    index = TextIndex.of(files, [None if part is None else as_hashes(part) for part in parts])
    expected: dict[tuple[int, int], tuple[str, int]] = {}
    for file, part in zip(files, parts, strict=True):
        for row, pair in enumerate(part or ()):
            expected.setdefault(pair, (file.path, row))
    positions = index.find(as_hashes(asked))
    hits = np.flatnonzero(positions >= 0)
    found = {
        int(hits[number]): (file.path, int(row))
        for file, which, rows in index.by_file(positions[hits])
        for number, row in zip(which, rows, strict=True)
    }
    assert found == {row: expected[pair] for row, pair in enumerate(asked) if pair in expected}


@given(ROWS)
def test_groups_are_of_equal_rows_and_led_by_the_first(rows: Rows) -> None:
    firsts, groups = group_equal(as_hashes(rows))
    assert [rows.index(pair) for pair in rows] == [int(firsts[group]) for group in groups]
    assert len(firsts) == len(set(rows))
