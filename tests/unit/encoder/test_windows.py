"""Pairs and windows: what the plain tokenizer gives, and nothing of a long text lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows, pad_rows
from pipeline.errors import ModelError
from tests.tiny import make_rows, make_tokenizer

LEFT = ["the film", "", "good", "the film was superb and it is lovely", "a b c d e f g h i j"]
RIGHT = [
    "was it?",
    "bad",
    "",
    "seven blue table",
    "the film was superb and it is lovely, and dull, and round",
]
LONG = " ".join(make_rows(12)["text"].to_pylist())


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    """A tokenizer of its own: TextTokenizer sets truncation on the one it is given."""
    return make_tokenizer(tmp_path / "fresh")


def ids_of(rows: TokenRows) -> list[list[int]]:
    return [rows.row(index).tolist() for index in range(len(rows))]


def types_of(rows: TokenRows) -> list[list[int]]:
    assert rows.type_ids is not None
    return [rows.type_ids[start:stop].tolist() for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]


@pytest.mark.parametrize("max_length", [8, 16, 64])
def test_pairs_are_those_of_the_plain_tokenizer(fresh: Any, tokenizer: Any, max_length: int) -> None:
    rows = TextTokenizer(fresh, TokenOptions(max_length)).encode(pa.array(LEFT), pa.array(RIGHT))
    plain = tokenizer(LEFT, RIGHT, truncation="longest_first", max_length=max_length)
    assert ids_of(rows) == plain["input_ids"]
    assert types_of(rows) == plain["token_type_ids"]
    full = [len(ids) for ids in tokenizer(LEFT, RIGHT)["input_ids"]]
    assert rows.truncated.tolist() == [length > max_length for length in full]


def test_with_spans_only_the_second_text_of_a_pair_is_cut(fresh: Any, tokenizer: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(24, with_spans=True)).encode(pa.array(LEFT), pa.array(RIGHT))
    plain = tokenizer(LEFT, RIGHT, truncation="only_second", max_length=24)
    assert ids_of(rows) == plain["input_ids"]
    assert types_of(rows) == plain["token_type_ids"]


def test_single_texts_have_no_segments(fresh: Any) -> None:
    assert TextTokenizer(fresh, TokenOptions(16)).encode(pa.array(LEFT)).type_ids is None


@pytest.mark.parametrize("with_spans", [False, True])
@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (12, 3), (32, 16)])
def test_windows_are_those_of_the_plain_tokenizer(
    fresh: Any, tokenizer: Any, max_length: int, stride: int, with_spans: bool
) -> None:
    texts = ["good", LONG, "", LONG[:100]]
    rows = TextTokenizer(fresh, TokenOptions(max_length, "window", stride, with_spans)).encode(pa.array(texts))
    plain = tokenizer(texts, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True)
    assert ids_of(rows) == plain["input_ids"]
    assert rows.window_rows.tolist() == plain["overflow_to_sample_mapping"]
    assert rows.row_windows.tolist() == np.bincount(plain["overflow_to_sample_mapping"]).tolist()
    assert rows.row_tokens.sum() == rows.lengths.sum() == len(rows.ids)
    assert (rows.num_rows, rows.truncated.tolist()) == (4, [False] * 4)


def test_windows_of_a_pair_are_those_of_the_plain_tokenizer(fresh: Any, tokenizer: Any) -> None:
    questions, contexts = ["good?", "was it bad"], [LONG, "the film"]
    options = TokenOptions(24, "window", 6, with_spans=True)
    rows = TextTokenizer(fresh, options).encode(pa.array(questions), pa.array(contexts))
    plain = tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=24,
        stride=6,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert ids_of(rows) == plain["input_ids"]
    assert types_of(rows) == plain["token_type_ids"]
    assert rows.window_rows.tolist() == plain["overflow_to_sample_mapping"]
    assert rows.spans is not None
    for window in range(len(rows)):
        part = slice(int(rows.offsets[window]), int(rows.offsets[window + 1]))
        is_context = np.array([sequence == 1 for sequence in plain.sequence_ids(window)])
        expected = np.where(is_context[:, None], plain["offset_mapping"][window], -1)
        np.testing.assert_array_equal(rows.spans[part], expected)


@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (8, 4), (12, 5), (50, 1)])
def test_every_token_of_a_long_text_is_in_some_window_and_neighbours_share_the_stride(
    fresh: Any, tokenizer: Any, max_length: int, stride: int
) -> None:
    rows = TextTokenizer(fresh, TokenOptions(max_length, "window", stride)).encode(pa.array([LONG]))
    inner = [ids[1:-1] for ids in ids_of(rows)]
    joined = list(inner[0])
    for left, window in itertools.pairwise(inner):
        assert window[:stride] == left[len(left) - stride :]
        joined += window[stride:]
    assert joined == tokenizer(LONG, add_special_tokens=False)["input_ids"]


def test_spans_are_where_the_tokens_stand(fresh: Any) -> None:
    text = "The film,  was\r\nSUPERB 🎉 שלום 日本"
    rows = TextTokenizer(fresh, TokenOptions(64, with_spans=True)).encode(pa.array([text]))
    assert rows.spans is not None
    assert rows.words is not None
    pieces = [text[start:end] for start, end in rows.spans.tolist() if start >= 0]
    assert pieces[:4] == ["The", "film", ",", "was"]
    assert "".join(pieces) == "".join(text.split())
    assert rows.spans[[0, -1]].tolist() == [[-1, -1], [-1, -1]]
    assert (rows.words >= 0).tolist() == (rows.spans[:, 0] >= 0).tolist()


@pytest.mark.parametrize("max_length", [16, 17])
def test_windows_of_both_texts_of_a_pair_share_less_than_half_the_room(fresh: Any, max_length: int) -> None:
    half = (max_length - 3) // 2
    pair = pa.array([LONG]), pa.array([LONG])
    assert len(TextTokenizer(fresh, TokenOptions(max_length, "window", half - 1)).encode(*pair)) > 1
    with pytest.raises(ModelError, match=f"windows of {max_length} tokens that share {half} cannot move on"):
        TextTokenizer(fresh, TokenOptions(max_length, "window", half)).encode(*pair)


def test_a_stride_without_room_is_refused_only_where_windows_are_made(fresh: Any) -> None:
    with pytest.raises(ModelError, match="windows of 8 tokens that share 5 cannot move on"):
        TextTokenizer(fresh, TokenOptions(8, "window", 5))
    assert ids_of(TextTokenizer(fresh, TokenOptions(8, "truncate", 50)).encode(pa.array([LONG])))[0][0] == 2


def test_left_padding_and_segments_stay_with_their_tokens(fresh: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(32)).encode(pa.array(LEFT), pa.array(RIGHT))
    picks = np.array([3, 0, 1])
    batch = pad_rows(rows, picks, Padding(9), left=True)
    assert batch.types_BS is not None
    for position, pick in enumerate(picks):
        length = int(rows.lengths[pick])
        gap = batch.ids_BS.shape[1] - length
        assert batch.ids_BS[position].tolist() == [9] * gap + rows.row(pick).tolist()
        assert batch.types_BS[position].tolist() == [0] * gap + types_of(rows)[pick]
        assert batch.mask_BS[position].tolist() == [0] * gap + [1] * length


def test_a_question_that_leaves_no_room_for_its_context_is_cut_not_fatal(fresh: Any) -> None:
    options = TokenOptions(16, "window", 4, with_spans=True)
    rows = TextTokenizer(fresh, options).encode(pa.array(["good?", LONG, "bad?"]), pa.array(["the film", LONG, "it"]))
    assert rows.num_rows == 3
    assert rows.lengths.max() <= 16
    assert rows.truncated.tolist() == [False, True, False]
