from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, pad_rows
from pipeline.errors import ModelError
from tests.tiny import make_rows, make_tokenizer

TEXTS = ["the film was superb", "", "good", "日本 and\temoji 🎉", "a" * 150, " ".join(string.ascii_letters) * 3]


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    """A tokenizer of its own: TextTokenizer sets truncation on the one it is given."""
    return make_tokenizer(tmp_path / "fresh")


def test_ids_are_those_of_the_plain_tokenizer(fresh: Any, tokenizer: Any) -> None:
    texts = TEXTS + make_rows(50)["text"].to_pylist()
    rows = TextTokenizer(fresh, TokenOptions(24)).encode(pa.array(texts))
    expected = tokenizer(texts, truncation=True, max_length=24)["input_ids"]
    assert [rows.row(index).tolist() for index in range(len(rows))] == expected
    assert rows.lengths.tolist() == [len(ids) for ids in expected]


def test_truncation_is_flagged_exactly_where_tokens_were_lost(fresh: Any, tokenizer: Any) -> None:
    texts = [" ".join(["good"] * count) for count in range(12)]
    rows = TextTokenizer(fresh, TokenOptions(8)).encode(pa.array(texts))
    full = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert rows.truncated.tolist() == [length > 8 for length in full]
    assert rows.lengths.tolist() == [min(length, 8) for length in full]
    assert 0 < rows.truncated.sum() < len(texts)


def test_texts_are_cut_on_the_side_that_the_tokenizer_says(fresh: Any, tokenizer: Any) -> None:
    """Those that are long enough to be cut before they are tokenised too."""
    fresh.truncation_side = "left"
    texts = [*TEXTS, " ".join(["good film"] * 500 + ["bad plot"]), " ".join(make_rows(200)["text"].to_pylist())]
    others = texts[::-1]
    options = {"truncation": True, "max_length": 24}
    tokenise = TextTokenizer(fresh, TokenOptions(24))
    found = [tokenise.encode(pa.array(texts)), tokenise.encode(pa.array(texts), pa.array(others))]
    plain = type(tokenizer).from_pretrained(tokenizer.name_or_path, truncation_side="left")
    for rows, expected in zip(found, (plain(texts, **options), plain(texts, others, **options)), strict=True):
        assert [rows.row(index).tolist() for index in range(len(rows))] == expected["input_ids"]
    assert found[0].truncated.tolist() == [len(ids) > 24 for ids in tokenizer(texts)["input_ids"]]


@pytest.mark.parametrize("long_text", ["truncate", "window"])
def test_some_rows_have_the_tokens_they_had_among_all(fresh: Any, long_text: str) -> None:
    texts, kept = make_rows(12)["text"].to_pylist(), [0, 3, 4, 11]
    pairs = [texts, texts[::-1]]
    tokenise = TextTokenizer(fresh, TokenOptions(12, long_text, 2, with_spans=True))
    found = tokenise.encode(*map(pa.array, pairs)).of_rows(np.array(kept))
    expected = tokenise.encode(*(pa.array([column[row] for row in kept]) for column in pairs))
    assert len(expected) > len(kept) or long_text == "truncate"
    assert found.truncated.tolist() == expected.truncated.tolist()
    assert found.window_rows.tolist() == expected.window_rows.tolist()
    for name in ("ids", "offsets", "type_ids", "spans", "words"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_windows_are_made_from_the_left_whatever_side_a_tokenizer_truncates(fresh: Any, tokenizer: Any) -> None:
    fresh.truncation_side = "left"
    text = " ".join(make_rows(12)["text"].to_pylist())
    rows = TextTokenizer(fresh, TokenOptions(16, "window", 4)).encode(pa.array([text]))
    plain = tokenizer([text], truncation=True, max_length=16, stride=4, return_overflowing_tokens=True)
    assert [rows.row(index).tolist() for index in range(len(rows))] == plain["input_ids"]


def test_truncated_rows_keep_their_closing_token(fresh: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(8)).encode(pa.array(["good " * 50]))
    assert rows.row(0)[[0, -1]].tolist() == [fresh.cls_token_id, fresh.sep_token_id]


@pytest.mark.parametrize("texts", [pa.array([], pa.large_string()), pa.chunked_array([], pa.string())])
def test_no_texts_give_no_rows(fresh: Any, texts: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(8)).encode(texts)
    assert (len(rows), rows.ids.tolist(), rows.lengths.tolist(), rows.truncated.tolist()) == (0, [], [], [])


def test_many_texts_in_chunks_come_out_in_order(fresh: Any) -> None:
    texts = [str(number) for number in range(5_000)]
    chunked = pa.chunked_array([pa.array(texts[:1_999]), pa.array(texts[1_999:2_000]), pa.array(texts[2_000:])])
    encode = TextTokenizer(fresh, TokenOptions(16)).encode
    together, apart = encode(chunked), encode(pa.array(texts[3_000:]))
    assert len(together) == 5_000
    assert together.ids[together.offsets[3_000] :].tolist() == apart.ids.tolist()


def test_dtypes_hold_for_big_shards(fresh: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(8)).encode(pa.array(["good"]))
    assert (rows.ids.dtype, rows.offsets.dtype, rows.truncated.dtype) == (np.int32, np.int64, np.bool_)


def test_padding_is_on_the_right_to_the_longest_row_of_the_batch(fresh: Any) -> None:
    rows = TextTokenizer(fresh, TokenOptions(16)).encode(pa.array(["good", "the film was good", "bad film"]))
    batch = pad_rows(rows, np.array([2, 0]), Padding.of(fresh))
    assert batch.mask_BS.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.ids_BS[0].tolist() == rows.row(2).tolist()
    assert batch.ids_BS[1].tolist() == [*rows.row(0).tolist(), fresh.pad_token_id]
    assert (batch.ids_BS.dtype, batch.mask_BS.dtype, batch.types_BS) == (np.int64, np.int64, None)


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    with pytest.raises(ModelError, match="the tokenizer object has no fast form"):
        TextTokenizer(object(), TokenOptions(8))
