"""What a sample of a corpus says of the whole, however unlike its files are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.sample import SampleSize, choose_spots
from pipeline.corpus.shards import FileLayout, RowGroup, ShardSize, cut_shards

SIZE = SampleSize()
FILES = st.lists(
    st.tuples(
        st.integers(1, 3_000),  # rows
        st.sampled_from([3, 20, 200, 2_000, 50_000]),  # usual bytes of a row
        st.floats(0.0, 0.8),  # spread of their logarithms
        st.integers(1, 1_000),  # rows of a row group
    ),
    min_size=1,
    max_size=60,
)


def draw_lengths(files: list[tuple[int, int, float, int]], seed: int) -> list[npt.NDArray[np.float64]]:
    """Bytes of every row of every file."""
    draw = np.random.default_rng(seed)
    return [np.ceil(usual * draw.lognormal(0.0, spread, rows)) for rows, usual, spread, _ in files]


def lay_out(files: list[tuple[int, int, float, int]], lengths: list[npt.NDArray[np.float64]]) -> list[FileLayout]:
    """What the footers of such files would say."""
    layouts = []
    for index, ((rows, _, _, group_rows), found) in enumerate(zip(files, lengths, strict=True)):
        starts = range(0, rows, group_rows)
        groups = tuple(
            RowGroup(len(found[at : at + group_rows]), int(found[at : at + group_rows].sum())) for at in starts
        )
        layouts.append(FileLayout(CorpusFile(f"part-{index:03d}", 1, "etag"), groups))
    return layouts


@settings(max_examples=150)
@given(FILES, st.integers(0, 2**32 - 1), st.sampled_from([32, 128, 1_000_000]))
def test_rows_and_tokens_are_known_within_a_quarter(
    files: list[tuple[int, int, float, int]], seed: int, max_tokens: int
) -> None:
    lengths = draw_lengths(files, seed)
    layouts = lay_out(files, lengths)
    pieces = [piece for shard in cut_shards(layouts, ShardSize(5_000, 2**20)) for piece in shard.pieces]
    spots = choose_spots(pieces, {layout.file.uri: layout for layout in layouts}, SIZE.spots)
    by_uri = {layout.file.uri: found for layout, found in zip(layouts, lengths, strict=True)}
    tokens = rows = 0.0
    for spot in spots:
        own = np.minimum(by_uri[spot.piece.file.uri][spot.piece.start_row : spot.piece.stop_row] / 4 + 2, max_tokens)
        looked_at = min(len(own), SIZE.rows // len(spots))
        tokens += own[np.linspace(0, len(own) - 1, looked_at).astype(int)].mean() * spot.num_meant_rows
        rows += spot.num_meant_rows
    expected = sum(np.minimum(found / 4 + 2, max_tokens).sum() for found in lengths)
    assert len(spots) <= SIZE.spots
    assert 0.75 * expected <= tokens <= 1.25 * expected
    assert 0.5 * sum(map(len, lengths)) <= rows <= 2.0 * sum(map(len, lengths))


@given(FILES, st.integers(0, 2**32 - 1))
def test_few_row_groups_are_all_looked_at(files: list[tuple[int, int, float, int]], seed: int) -> None:
    layouts = lay_out(files, draw_lengths(files, seed))
    pieces = [piece for shard in cut_shards(layouts, ShardSize(10**9, 10**12)) for piece in shard.pieces]
    num_groups = sum(len(layout.row_groups) for layout in layouts)
    spots = choose_spots(pieces, {layout.file.uri: layout for layout in layouts}, num_groups)
    assert [spot.weight for spot in spots] == [1.0] * num_groups
    assert sum(spot.piece.num_rows for spot in spots) == sum(layout.num_rows for layout in layouts)
