"""Training rows of several texts: how they stand in the token cache and in memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.rows import open_rows
from pipeline.corpus.shards import ShardSize
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions, interleave_rows
from pipeline.errors import CorpusError
from pipeline.finetune.labelled import LabelTarget, open_split
from pipeline.finetune.token_cache import (
    TokenCacheJob,
    TokenCacheWriter,
    TokenData,
    cache_file,
    check_cached,
    load_tokens,
)
from pipeline.storage import Storage
from pipeline.tasks.embedding import Embedding
from tests.unit.encoder.families import FAMILIES

STORAGE, TASK, OPTIONS = Storage(), Embedding(), TokenOptions(16)
PAIR, TRIPLET = (("text_a",), ("text_b",)), (("text_a",), ("text_b",), ("negative",))
TEXTS: dict[str, list[str | None]] = {
    "text_a": ["the film", "it was good", "bad", None, "good", "lovely film", "the film"],
    "text_b": ["good film was good", "it", "was bad bad", "x", " ", "film", "was it"],
    "negative": ["was", "the film was so bad", "lovely", "y", "z", "", "a b c"],
}


class Cached:
    """A split of these texts, tokenised into a cache."""

    def __init__(self, root: Path, tokenizer: Any, groups: tuple[tuple[str, ...], ...], **columns: Any) -> None:
        (root / "train").mkdir(parents=True)
        pq.write_table(pa.table({**TEXTS, **columns}), root / "train" / "a.parquet")
        target = next(iter(columns), None)
        self.split = open_split((str(root / "train"),), TASK, groups, LabelTarget(target), STORAGE)
        self.uri = str(root / "cache")
        job = TokenCacheJob("given", OPTIONS, TASK.name, self.split.learned, self.split, self.uri, 1, STORAGE)
        writer = TokenCacheWriter(job, TextTokenizer(tokenizer, OPTIONS))
        self.receipts = [writer.process(shard).to_pylist()[0] for shard in self.split.shards]

    def load(self) -> TokenData:
        files = [cache_file(self.uri, shard) for shard in self.split.shards]
        return load_tokens(files, len(self.split.texts), STORAGE)


def expected_ids(tokenizer: Any, names: list[str], rows: list[int], key: str = "input_ids") -> list[list[int]]:
    return [tokenizer(TEXTS[name][row], truncation=True, max_length=16)[key] for row in rows for name in names]


def windows(data: TokenData) -> list[list[int]]:
    return [data.rows.row(window).tolist() for window in range(len(data.rows))]


def test_the_texts_of_a_row_stand_side_by_side_and_unusable_rows_are_left_out_together(
    tmp_path: Path, tokenizer: Any
) -> None:
    pairs = Cached(tmp_path / "pairs", tokenizer, PAIR)
    data = pairs.load()
    assert windows(data) == expected_ids(tokenizer, ["text_a", "text_b"], [0, 1, 2, 5, 6])
    triplets = Cached(tmp_path / "triplets", tokenizer, TRIPLET)
    assert windows(triplets.load()) == expected_ids(tokenizer, [*TEXTS], [0, 1, 2, 6])
    assert (len(data), data.texts_per_row, len(triplets.load()), triplets.load().texts_per_row) == (5, 2, 4, 3)
    assert pairs.receipts == [{"num_rows": 7, "num_tokens": len(data.rows.ids)}]


def test_rows_with_one_unusable_text_are_counted_once(tmp_path: Path, tokenizer: Any) -> None:
    triplets = Cached(tmp_path, tokenizer, TRIPLET)
    check_cached(triplets.split, triplets.uri, 3 / 7, STORAGE)
    with pytest.raises(CorpusError, match=r"3 of 7 labelled rows(.|\n)*row 3: (.|\n)*row 4: (.|\n)*row 5: "):
        check_cached(triplets.split, triplets.uri, 0.4, STORAGE)


def test_pairs_without_scores_have_the_keys_of_their_texts_as_targets(tmp_path: Path, tokenizer: Any) -> None:
    data = Cached(tmp_path, tokenizer, TRIPLET).load()
    assert np.diff(data.targets.offsets).tolist() == [6, 0, 0] * 4
    assert data.targets.weights.tolist() == [1, 0, 0] * 4
    keys = data.targets.values.reshape(-1, 3, 2).tolist()
    assert keys[0][0] == keys[3][0]  # both are "the film"
    assert [len({tuple(key) for key in column}) for column in zip(*keys, strict=True)] == [3, 4, 4]


def test_scores_stand_with_the_first_text(tmp_path: Path, tokenizer: Any) -> None:
    scores = [0.5, 1, None, 2, 3, float("nan"), 4]
    cached = Cached(tmp_path, tokenizer, PAIR, score=pa.array(scores, pa.float64()))
    data = cached.load()
    assert windows(data) == expected_ids(tokenizer, ["text_a", "text_b"], [0, 1, 6])
    assert data.targets.values.tolist() == [0.5, 1, 4]
    assert np.diff(data.targets.offsets).tolist() == [1, 0] * 3
    assert data.targets.weights.tolist() == [1, 0] * 3
    with pytest.raises(CorpusError, match="4 of 7 labelled rows cannot be used"):
        check_cached(cached.split, cached.uri, 0.5, STORAGE)


def test_segments_are_kept_where_a_single_text_has_them(tmp_path: Path) -> None:
    family = FAMILIES["xlnet"]
    data = Cached(tmp_path, family.tokenizer(), TRIPLET).load()
    tokenizer, rows = family.tokenizer(), [0, 1, 2, 6]
    assert data.rows.type_ids is not None
    found = [data.rows.type_ids[low:high].tolist() for low, high in pairwise(data.rows.offsets)]
    assert found == expected_ids(tokenizer, [*TEXTS], rows, "token_type_ids")
    assert {segment for row in found for segment in row} == {0, 2}
    assert windows(data) == expected_ids(tokenizer, [*TEXTS], rows)


def test_shards_follow_each_other_row_by_row(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Cached(tmp_path / "whole", tokenizer, PAIR)
    monkeypatch.setattr("pipeline.finetune.labelled.open_rows", partial(open_rows, size=ShardSize(rows=1, bytes=1)))
    cut = Cached(tmp_path / "cut", tokenizer, PAIR)
    assert len(cut.split.shards) == 7
    one, other = whole.load(), cut.load()
    assert sorted(map(str, windows(one))) == sorted(map(str, windows(other)))
    pairs = {tuple(map(tuple, windows(data)[2 * row : 2 * row + 2])) for data in (one, other) for row in range(5)}
    assert len(pairs) == 5
    assert sorted(other.targets.values) == sorted(one.targets.values)
    assert np.diff(other.targets.offsets).tolist() == [4, 0] * 5


def test_rows_know_their_windows_and_lengths(tmp_path: Path, tokenizer: Any) -> None:
    data = Cached(tmp_path, tokenizer, TRIPLET).load()
    assert data.windows_of(np.array([2, 0])).tolist() == [6, 7, 8, 0, 1, 2]
    assert data.windows_of(np.zeros(0, np.int64)).tolist() == []
    assert data.row_lengths.tolist() == [data.rows.lengths[3 * row : 3 * row + 3].sum() for row in range(4)]
    plain = replace(data, texts_per_row=1)
    assert (len(plain), plain.row_lengths.tolist()) == (12, data.rows.lengths.tolist())
    assert plain.windows_of(np.array([4, 1])).tolist() == [4, 1]


def test_the_columns_of_a_split_are_read_once_each(tmp_path: Path, tokenizer: Any) -> None:
    one = Cached(tmp_path, tokenizer, (("text_a",), ("text_a",)))
    data = one.load()
    assert windows(data)[::2] == windows(data)[1::2]


@pytest.mark.parametrize("lengths", [[[2, 5, 3], [4, 1, 6]], [[1], [2], [3]], [[], []]])
def test_interleaved_rows_keep_each_texts_tokens(tokenizer: Any, lengths: list[list[int]]) -> None:
    encoder = TextTokenizer(tokenizer, OPTIONS)
    parts = [encoder.encode(pa.array(["good " * length for length in part], pa.string())) for part in lengths]
    joined = interleave_rows(parts)
    expected = [parts[text].row(row).tolist() for row in range(len(lengths[0])) for text in range(len(lengths))]
    assert [joined.row(window).tolist() for window in range(len(joined))] == expected
    assert joined.type_ids is None


def test_truncation_is_told_text_by_text(tokenizer: Any) -> None:
    encoder = TextTokenizer(tokenizer, TokenOptions(6))
    long, short = "good " * 20, "good"
    parts = [encoder.encode(pa.array(texts)) for texts in ([long, short], [short, short], [short, long])]
    assert interleave_rows(parts).truncated.tolist() == [True, False, False, False, False, True]
    assert interleave_rows(parts[:1]) is parts[0]
