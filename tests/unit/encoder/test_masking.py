from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.encoder.forward import encode, lay_out
from pipeline.encoder.masking import NOT_HIDEABLE, HiddenWindow, HidingRules, find_mask, hide_tokens
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions
from pipeline.errors import ModelError
from tests.tiny import make_rows
from tests.unit.encoder.families import FAMILIES

MASK = 4
RULES = HidingRules(0.15, False, MASK, np.arange(100, 200, dtype=np.int32), seed=7)
IDS = np.arange(1_000, 1_102, dtype=np.int32)
WORDS = np.array([NOT_HIDEABLE, *np.repeat(np.arange(25), 4), NOT_HIDEABLE])  # 25 words of 4 tokens, framed


def hide(rules: HidingRules = RULES, *key: int) -> HiddenWindow:
    return hide_tokens(IDS, WORDS, rules, key)


def same(left: HiddenWindow, right: HiddenWindow) -> bool:
    return np.array_equal(left.ids, right.ids) and np.array_equal(left.places, right.places)


def test_a_key_decides_everything_and_each_part_of_it_counts() -> None:
    assert same(hide(RULES, 3, 11), hide(RULES, 3, 11))
    assert not same(hide(RULES, 3, 11), hide(RULES, 4, 11))
    assert not same(hide(RULES, 3, 11), hide(RULES, 3, 12))
    assert not same(hide(RULES, 3, 11), hide(replace(RULES, seed=8), 3, 11))


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_share_of_the_tokens_is_hidden_and_never_a_special_one(whole_words: bool) -> None:
    for row in range(200):
        hidden = hide(replace(RULES, whole_words=whole_words), row)
        assert len(hidden.places) == (12 if whole_words else 15)  # as many whole words as fit into 15 tokens
        assert not {0, 101} & set(hidden.places.tolist())
        assert np.array_equal(hidden.truth, IDS[hidden.places])
        untouched = np.setdiff1d(np.arange(len(IDS)), hidden.places)
        assert np.array_equal(hidden.ids[untouched], IDS[untouched])
        if whole_words:
            assert sorted(np.unique(WORDS[hidden.places], return_counts=True)[1].tolist()) == [4, 4, 4]


def test_every_token_is_hidden_as_often_as_any_other() -> None:
    counts = np.zeros(len(IDS))
    for row in range(2_000):
        counts[hide(RULES, row).places] += 1
    assert counts[WORDS >= 0].min() > 220  # 300 expected, standard deviation 16
    assert counts[WORDS >= 0].max() < 380


def test_most_are_masked_some_replaced_and_some_left() -> None:
    drawn = [hide(RULES, row) for row in range(1_000)]
    seen = np.concatenate([hidden.ids[hidden.places] for hidden in drawn])
    truth = np.concatenate([hidden.truth for hidden in drawn])
    assert np.mean(seen == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(np.isin(seen, RULES.replacements)) == pytest.approx(0.1, abs=0.02)
    assert np.mean(seen == truth) == pytest.approx(0.1, abs=0.02)


def test_a_short_window_has_one_hidden_token_and_one_without_words_none() -> None:
    short = hide_tokens(np.array([2, 50, 3], np.int32), np.array([-1, 0, -1]), RULES, (0,))
    assert short.places.tolist() == [1]
    empty = hide_tokens(np.array([2, 3], np.int32), np.array([-1, -1]), RULES, (0,))
    assert empty.places.tolist() == []


def test_a_word_longer_than_the_share_is_hidden_whole() -> None:
    hidden = hide_tokens(np.arange(5, dtype=np.int32), np.zeros(5, np.int64), replace(RULES, whole_words=True), (0,))
    assert hidden.places.tolist() == [0, 1, 2, 3, 4]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(ModelError, match="no mask token"):
        find_mask(FAMILIES["bert"].tokenizer())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "xlnet"])
def test_logits_of_some_tokens_are_those_of_the_whole_network(family: str) -> None:
    tokenizer = FAMILIES[family].tokenizer()
    network = FAMILIES[family].network("AutoModelForMaskedLM")
    rows = TextTokenizer(tokenizer, TokenOptions(32)).encode(make_rows(5)["text"])
    indices = np.array([3, 0, 4])
    batch = lay_out(rows, indices, network.base_model, Padding.of(tokenizer), torch.device("cpu"))
    places = torch.tensor([1, 2, int(rows.lengths[3]) + 1, int(rows.lengths[[3, 0, 4]].sum()) - 2])
    with torch.inference_mode():
        some = encode(network.base_model, batch).token_logits(network, places)
        singly = [
            network(input_ids=torch.from_numpy(rows.row(row).astype(np.int64))[None]).logits[0] for row in indices
        ]
    torch.testing.assert_close(some, torch.cat(singly)[places], atol=2e-5, rtol=1e-4)
