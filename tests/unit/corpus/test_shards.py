from __future__ import annotations

import pytest

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import FileLayout, RowGroup, ShardSize, cut_shards

SIZE = ShardSize(rows=1_000, bytes=100_000)


def layout(name: str, *row_groups: tuple[int, int]) -> FileLayout:
    return FileLayout(CorpusFile(f"/c/{name}", 1, "e"), tuple(RowGroup(*group) for group in row_groups))


def ranges(layouts: list[FileLayout], size: ShardSize = SIZE) -> list[tuple[int, int]]:
    return [(piece.start_row, piece.stop_row) for shard in cut_shards(layouts, size) for piece in shard.pieces]


@pytest.mark.parametrize(
    ("row_groups", "expected"),
    [
        ([(500, 0), (500, 0), (500, 0)], [(0, 1_000), (1_000, 1_500)]),
        ([(900, 0), (900, 0)], [(0, 900), (900, 1_800)]),
        ([(2_000, 0)], [(0, 2_000)]),
        ([(3_000, 0)], [(0, 1_000), (1_000, 2_000), (2_000, 3_000)]),
        ([(100, 0), (2_500, 0)], [(0, 933), (933, 1_766), (1_766, 2_600)]),
        ([(10, 60_000), (10, 60_000)], [(0, 10), (10, 20)]),
        ([(2, 10**9)], [(0, 1), (1, 2)]),
        ([(0, 0), (1_000, 0), (0, 0)], [(0, 1_000)]),
    ],
)
def test_big_files_are_cut_at_row_groups_and_giant_row_groups_by_rows(
    row_groups: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert ranges([layout("big", *row_groups)]) == expected


def test_small_files_share_shards_of_about_the_size_asked_for() -> None:
    shards = cut_shards([layout(f"{number:04d}", (50, 0)) for number in range(2_000)], SIZE)
    assert 60 <= len(shards) <= 140
    assert all(shard.num_rows <= 4 * SIZE.rows for shard in shards)
    assert sum(shard.num_rows for shard in shards) == 100_000


def test_a_big_file_is_never_packed_with_small_ones() -> None:
    layouts = [layout("a", (10, 0)), layout("b", (1_500, 0)), layout("c", (10, 0))]
    assert [[piece.file.uri for piece in shard.pieces] for shard in cut_shards(layouts, SIZE)] == [
        ["/c/a"],
        ["/c/b"],
        ["/c/c"],
    ]


@pytest.mark.parametrize("num_rows", [20, 100, 400])
def test_a_file_added_anywhere_to_many_leaves_nearly_all_shards_alone(num_rows: int) -> None:
    layouts = [layout(f"{number:04d}", (num_rows, 0)) for number in range(1_000)]
    before = {shard.name for shard in cut_shards(layouts, SIZE)}
    for place in range(0, 1_000, 50):
        with_extra = [*layouts, layout(f"{place:04d}-extra", (num_rows, 0))]
        without = layouts[:place] + layouts[place + 1 :]
        for changed in (with_extra, without):
            assert len(before - {shard.name for shard in cut_shards(changed, SIZE)}) <= 2


def test_the_first_limit_that_is_met_fills_a_shard() -> None:
    assert SIZE.share(500, 10_000) == 0.5
    assert SIZE.share(10, 200_000) == 2
