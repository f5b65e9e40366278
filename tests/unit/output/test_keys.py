from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.output.keys import KeyRange, RowGroupPlace, key_ranges, overlapping, read_row_group, read_row_groups
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage

PLACE = RowGroupPlace("/t", "a.parquet", 0)


def key_range(source_file: str, first: int, last: int) -> KeyRange:
    return KeyRange(PLACE, source_file, first, last, last - first + 1)


def test_a_range_spans_the_rows_of_one_source_file() -> None:
    rows = pa.table({"source_file": ["a", "a", "b", "a"], "source_row": [7, 9, 2, 3]})
    assert sorted(key_ranges(rows, PLACE), key=lambda item: item.source_file) == [
        KeyRange(PLACE, "a", 3, 9, 3),
        KeyRange(PLACE, "b", 2, 2, 1),
    ]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([("a", 0, 9), ("a", 10, 19), ("b", 5, 15)], []),
        ([("a", 0, 9), ("a", 9, 19)], [2]),
        ([("a", 0, 99), ("a", 10, 19), ("a", 50, 59), ("a", 100, 101)], [3]),
        ([("a", 10, 20), ("a", 0, 12), ("b", 0, 5), ("b", 5, 5), ("b", 6, 9)], [2, 2]),
    ],
)
def test_only_ranges_that_overlap_are_grouped(spans: list[tuple[str, int, int]], expected: list[int]) -> None:
    assert sorted(len(group) for group in overlapping(key_range(*span) for span in spans)) == expected


def test_row_groups_come_one_by_one_and_can_be_read_again(tmp_path: Path) -> None:
    rows = pa.table({"source_row": range(40_000), "other": range(40_000)})
    write_parquet(rows, f"{tmp_path}/a.parquet", {}, Storage())
    found = list(read_row_groups(str(tmp_path), "a.parquet", ["source_row"], Storage()))
    assert [(place.index, group.num_rows, group.column_names) for place, group in found] == [
        (0, 32_768, ["source_row"]),
        (1, 7_232, ["source_row"]),
    ]
    assert read_row_group(found[1][0], ["source_row"], Storage()).equals(found[1][1])
