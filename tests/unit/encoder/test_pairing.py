from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encoder.masking import NOT_HIDEABLE
from pipeline.encoder.pairing import PairingRules, Window, pair_window, sentence_ends
from pipeline.encoder.tokenize import TokenRows, concat_lengths

CLS, SEP, END = 1, 2, 3
MAX_LENGTH = 16


def make_rules(lengths: list[int], has_ends: bool = False, seed: int = 0) -> PairingRules:
    """Windows of so many tokens, framed; no other id stands twice but that of ends; words of two tokens."""
    ids, words = [], []
    start = 10
    for length in lengths:
        content = np.arange(start, start + length, dtype=np.int32)
        content[3::4] = END if has_ends else content[3::4]
        ids += [np.array([CLS]), content, np.array([SEP])]
        words += [np.array([NOT_HIDEABLE]), np.arange(length) // 2, np.array([NOT_HIDEABLE])]
        start += length
    offsets = concat_lengths([np.array(lengths, np.int64) + 2])
    rows = TokenRows(np.concatenate(ids).astype(np.int32), offsets, np.zeros(len(lengths), np.bool_))
    return PairingRules(rows, np.concatenate(words).astype(np.int64), np.array([END], np.int32), MAX_LENGTH, seed)


def parts_of(pair: Window) -> tuple[list[int], list[int]]:
    """The two parts, and that they are framed as BERT's are."""
    assert pair.types is not None
    assert len(pair.ids) == len(pair.words) == len(pair.types) <= MAX_LENGTH
    ids = pair.ids.tolist()
    middle = ids.index(SEP)
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert pair.types.tolist() == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
    assert [place for place, word in enumerate(pair.words.tolist()) if word < 0] == [0, middle, len(ids) - 1]
    return ids[1:middle], ids[middle + 1 : -1]


@given(
    lengths=st.lists(st.integers(1, MAX_LENGTH - 3), min_size=1, max_size=6),
    key=st.tuples(st.integers(0, 5), st.integers(0, 1000)),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_pair_is_true_to_what_it_says(lengths: list[int], key: tuple[int, int], data: st.DataObject) -> None:
    rules = make_rules(lengths)
    own = data.draw(st.integers(0, len(lengths) - 1))
    window = rules.stranger(own)
    pair, is_next = pair_window(window, own, rules, key)
    first, second = parts_of(pair)
    content = window.ids[1:-1].tolist()
    assert first
    assert content[: len(first)] == first
    if is_next:
        assert first + second == content
        assert second
    elif len(lengths) > 1:
        others = [rules.stranger(number).ids[1:-1].tolist() for number in range(len(lengths)) if number != own]
        assert any(second and second == other[len(other) - len(second) :] for other in others) or any(
            set(second) <= set(other) and len(pair.ids) == MAX_LENGTH for other in others
        )
        assert not set(first) & set(second)


def test_half_of_the_windows_go_on_and_every_epoch_draws_anew() -> None:
    rules = make_rules([10] * 400)
    epochs = [[pair_window(rules.stranger(row), row, rules, (epoch, row)) for row in range(400)] for epoch in (0, 0, 1)]
    follows = [[is_next for _, is_next in pairs] for pairs in epochs]
    assert 160 < sum(follows[0]) < 240
    assert follows[0] == follows[1] != follows[2]
    assert all(np.array_equal(one.ids, other.ids) for (one, _), (other, _) in zip(epochs[0], epochs[1], strict=True))
    assert len({int(pair.ids.tolist().index(SEP)) for pair, is_next in epochs[0] if is_next}) > 2, "cut anywhere"


def test_windows_are_cut_after_sentences_where_there_are_any_and_never_within_a_word() -> None:
    for has_ends in (True, False):
        rules = make_rules([12] * 50, has_ends)
        for row in range(50):
            first, _ = parts_of(pair_window(rules.stranger(row), row, rules, (0, row))[0])
            assert first[-1] == END if has_ends else len(first) % 2 == 0


def test_a_window_of_one_word_never_goes_on() -> None:
    rules = make_rules([2, 6, 6])
    assert not any(pair_window(rules.stranger(0), 0, rules, (0, row))[1] for row in range(50))


def test_a_window_that_is_none_of_the_strangers_may_meet_any_of_them() -> None:
    rules = make_rules([4, 4])
    window = Window(np.array([CLS, 900, 901, 902, SEP], np.int32), np.array([-1, 0, 1, 2, -1]))
    pairs = [pair_window(window, -1, rules, (0, row)) for row in range(60)]
    met = {token for pair, is_next in pairs if not is_next for token in parts_of(pair)[1]}
    assert met & set(range(10, 14))
    assert met & set(range(14, 18))


def test_tokens_that_end_a_sentence_are_found(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(sentence_ends(tokenizer).tolist()) == [".", "!", "?"]


@pytest.mark.parametrize("seed", [0, 1])
def test_another_seed_draws_otherwise(seed: int) -> None:
    rules = make_rules([10] * 40)
    drawn = [pair_window(rules.stranger(row), row, replace(rules, seed=seed), (0, row))[1] for row in range(40)]
    other = [pair_window(rules.stranger(row), row, replace(rules, seed=seed + 1), (0, row))[1] for row in range(40)]
    assert drawn != other
