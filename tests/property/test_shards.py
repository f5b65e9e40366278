"""cut_shards: every row once, in any layout and listing order, under names that hold still."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import FileLayout, Piece, RowGroup, Shard, ShardSize, cut_shards, name_shard

ROW_GROUPS = st.builds(RowGroup, st.integers(0, 200), st.integers(0, 20_000))
SIZES = st.builds(ShardSize, st.integers(1, 300), st.integers(1, 30_000))
NUMBERS = st.integers(0, 10**6)


def layout(number: int, row_groups: tuple[RowGroup, ...], etag: str = "e") -> FileLayout:
    return FileLayout(CorpusFile(f"/corpus/part-{number:07d}.parquet", 1, etag), row_groups)


@st.composite
def corpora(draw: st.DrawFn) -> list[FileLayout]:
    numbers = draw(st.lists(NUMBERS, unique=True, max_size=25))
    return [layout(number, tuple(draw(st.lists(ROW_GROUPS, max_size=5)))) for number in numbers]


@st.composite
def small_files(draw: st.DrawFn) -> list[FileLayout]:
    """Files of a tenth to half of a shard of 100 rows, which are packed."""
    numbers = draw(st.lists(NUMBERS, unique=True, min_size=2, max_size=40))
    return [layout(number, (RowGroup(draw(st.integers(10, 50)), 10),)) for number in numbers]


SMALL_SIZE = ShardSize(rows=100, bytes=10**6)


def spans(shards: list[Shard]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for shard in shards:
        for piece in shard.pieces:
            found[piece.file.uri].append((piece.start_row, piece.stop_row))
    return {uri: sorted(pieces) for uri, pieces in found.items()}


@given(corpora(), SIZES)
@example([layout(1, ())], ShardSize(1, 1))
@example([layout(1, (RowGroup(0, 0), RowGroup(0, 7)))], ShardSize(1, 1))
@example([layout(1, (RowGroup(1_000_000, 10**9),))], ShardSize(65_536, 64 * 2**20))
@example([layout(1, (RowGroup(3, 10**9),)), layout(2, (RowGroup(1, 1),))], ShardSize(100, 100))
def test_every_row_is_in_exactly_one_shard(layouts: list[FileLayout], size: ShardSize) -> None:
    shards = cut_shards(layouts, size)
    found = spans(shards)
    assert found.keys() == {item.file.uri for item in layouts if item.num_rows}
    for item in layouts:
        position = 0
        for start, stop in found.get(item.file.uri, []):
            assert start == position
            assert stop > start
            position = stop
        assert position == item.num_rows
    assert sum(shard.num_rows for shard in shards) == sum(item.num_rows for item in layouts)


@given(corpora(), SIZES)
def test_no_shard_is_much_larger_than_asked_for(layouts: list[FileLayout], size: ShardSize) -> None:
    for shard in cut_shards(layouts, size):
        limit = 2 if len(shard.pieces) == 1 else 5
        assert size.share(shard.num_rows, shard.num_bytes) <= limit or shard.num_rows == 1


@given(corpora(), SIZES, st.randoms(use_true_random=False))
def test_listing_order_does_not_matter(layouts: list[FileLayout], size: ShardSize, draw: random.Random) -> None:
    shuffled = draw.sample(layouts, len(layouts))
    assert cut_shards(shuffled, size) == cut_shards(layouts, size)


@given(corpora(), SIZES)
def test_names_are_unique_and_follow_from_the_pieces(layouts: list[FileLayout], size: ShardSize) -> None:
    shards = cut_shards(layouts, size)
    assert len({shard.name for shard in shards}) == len(shards)
    assert all(shard.name == name_shard(shard.pieces) for shard in shards)


@given(corpora(), SIZES, st.data())
def test_a_new_etag_renames_the_shards_of_that_file_and_no_other(
    layouts: list[FileLayout], size: ShardSize, data: st.DataObject
) -> None:
    assume(any(item.num_rows for item in layouts))
    changed = data.draw(st.sampled_from([item for item in layouts if item.num_rows]))
    others = [item for item in layouts if item is not changed]
    before = cut_shards(layouts, size)
    after = cut_shards([*others, replace(changed, file=replace(changed.file, etag="new"))], size)
    touched = {shard.name for shard in before if changed.file in {piece.file for piece in shard.pieces}}
    kept = {shard.name for shard in before} & {shard.name for shard in after}
    assert kept == {shard.name for shard in before} - touched
    assert len(after) == len(before)


@given(
    st.tuples(st.text(), st.text(), st.integers(0, 9), st.integers(10, 19)),
    st.tuples(st.text(), st.text(), st.integers(0, 9), st.integers(10, 19)),
)
@example(("ab", "c", 0, 10), ("a", "bc", 0, 10))
@example(("a", "b", 1, 12), ("a", "b", 11, 12))
@example(("a", "b1", 0, 10), ("a", "b", 10, 10))
def test_a_name_depends_on_uri_etag_and_row_range(
    left: tuple[str, str, int, int], right: tuple[str, str, int, int]
) -> None:
    names = [name_shard([Piece(CorpusFile(uri, 1, etag), start, stop)]) for uri, etag, start, stop in (left, right)]
    assert (names[0] == names[1]) == (left == right)


@given(small_files(), NUMBERS, st.integers(10, 50))
def test_one_small_file_more_or_less_renames_only_its_pack(
    layouts: list[FileLayout], number: int, num_rows: int
) -> None:
    extra = layout(number, (RowGroup(num_rows, 10),))
    assume(extra.file.uri not in {item.file.uri for item in layouts})
    without, with_extra = cut_shards(layouts, SMALL_SIZE), cut_shards([*layouts, extra], SMALL_SIZE)
    # A pack closed by force at four times the aim has no boundary of its own; the next test is about those.
    assume(all(shard.num_rows < 4 * SMALL_SIZE.rows for shard in (*without, *with_extra)))
    gone = {shard.name for shard in without} - {shard.name for shard in with_extra}
    new = {shard.name for shard in with_extra} - {shard.name for shard in without}
    assert len(gone) <= 1
    assert 1 <= len(new) <= 2


@given(small_files(), NUMBERS)
def test_packs_before_a_new_file_never_change(layouts: list[FileLayout], number: int) -> None:
    extra = layout(number, (RowGroup(1, 1),))
    assume(extra.file.uri not in {item.file.uri for item in layouts})
    with_extra = cut_shards([*layouts, extra], SMALL_SIZE)
    (place,) = (index for index, shard in enumerate(with_extra) if extra.file in {p.file for p in shard.pieces})
    assert with_extra[:place] == cut_shards(layouts, SMALL_SIZE)[:place]
