"""Words, their tokens and entities of many rows at once, against loops over rows and windows that do it one by one."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.tasks.base import Examples, Learned
from pipeline.tasks.numbers import softmax
from pipeline.tasks.tagging import OUTSIDE, read_tags
from pipeline.tasks.token_classification import TokenClassification
from pipeline.tasks.words import find_beginnings, find_words, speaking_tokens
from tests.unit.tasks.parts import examples_of, outputs_of

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "E-PER", "S-LOC")
PIECES = ["the", "film", "xyz", "O'Neill", "e-mail,", "", " ", "שלום", "🎉", "e\u0301te", "\u200d", "good", "a\r\nb"]
PIECES += ["\u200bfilm", "我住在北京。", "good,the", "$a!", "ไทยกรุง"]


def simple_ranges(examples: Examples, text: str, windows: list[int]) -> np.ndarray:
    """Character ranges of a row's words."""
    if examples.are_words:
        lengths = np.array([len(word) for word in text.split(" ")], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
        return np.stack([starts, starts + lengths], axis=1)
    tokens, characters = examples.tokens, dict[int, set[tuple[int, int]]]()
    assert tokens.spans is not None
    assert tokens.words is not None
    for window in windows:
        for place in range(tokens.offsets[window], tokens.offsets[window + 1]):
            word, (start, end) = int(tokens.words[place]), tokens.spans[place].tolist()
            if word >= 0 and end > start:
                characters.setdefault(word, set()).add((start, end))
    found = []
    for word in sorted(characters):
        parts = sorted(characters[word])
        edges = [
            0,
            *(place for place in range(1, len(parts)) if splits(text, *parts[place - 1 : place + 1])),
            len(parts),
        ]
        found += [(parts[low][0], max(end for _, end in parts[low:high])) for low, high in pairwise(edges)]
    return np.array(found, np.int64).reshape(-1, 2)


def splits(text: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether a token is another word than the one before it."""
    edges = text[left[1] - 1], text[right[0]]
    return (
        right[0] >= left[1]
        and any(is_punctuation(edge) or edge in "我住在北京ไทยกรุง" for edge in edges)
        and edges[1] != "ุ"
    )


def is_punctuation(character: str) -> bool:
    return character in ".,!'-$" or character in "。「」"


def owned_by(examples: Examples, ranges: np.ndarray, window: int) -> list[tuple[int, int, int]]:
    """(word, first character, place) of each token of a window that lies in a word."""
    tokens, found = examples.tokens, []
    assert tokens.spans is not None
    for place in range(tokens.offsets[window], tokens.offsets[window + 1]):
        start, end = tokens.spans[place].tolist()
        owners = [word for word, (first, _) in enumerate(ranges) if first <= end - 1]
        if end > start and owners and end <= ranges[owners[-1]][1]:
            found.append((owners[-1], max(start, int(ranges[owners[-1]][0])), place))
    return found


def simple_first_tokens(examples: Examples, ranges: np.ndarray, windows: list[int]) -> list[list[int]]:
    """For each of a row's windows and each word its first token, where that stands in this window, or -1."""
    owned = [owned_by(examples, ranges, window) for window in windows]
    earliest: dict[int, int] = {}
    for word, start, _ in chain(*owned):
        earliest[word] = min(start, earliest.get(word, start))
    found = [[-1] * len(ranges) for _ in windows]
    for firsts, of_window in zip(found, owned, strict=True):
        for word, start, place in of_window:
            if start == earliest[word] and firsts[word] < 0:
                firsts[word] = place
    return found


def simple_words(examples: Examples) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ranges of each row's words, and the token that speaks for each."""
    tokens, rows = examples.tokens, []
    for row, text in enumerate(examples.texts[-1].to_pylist()):
        windows = np.flatnonzero(tokens.window_rows == row).tolist()
        ranges = simple_ranges(examples, text, windows)
        chosen, margin = np.full(len(ranges), -1, np.int64), np.full(len(ranges), -1, np.int64)
        for window, firsts in zip(windows, simple_first_tokens(examples, ranges, windows), strict=True):
            base, stop = int(tokens.offsets[window]), int(tokens.offsets[window + 1])
            for word, first in enumerate(firsts):
                room = min(first - base, stop - 1 - first) if first >= 0 else -1
                if room > margin[word]:
                    chosen[word], margin[word] = first, room
        rows.append((ranges, chosen))
    return rows


def simple_entities(text: str, ranges: np.ndarray, spoken: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """One row's entities."""
    best = [int(scores[token].argmax()) for token in spoken]
    tags = [LABELS[tag] if token >= 0 else OUTSIDE for tag, token in zip(best, spoken, strict=True)]
    entities = []
    for span in read_tags(tags):
        start, end = int(ranges[span.start, 0]), int(ranges[span.stop - 1, 1])
        start += len(text[start:end]) - len(text[start:end].lstrip())
        chosen = [scores[spoken[word], best[word]] for word in range(span.start, span.stop)]
        found = {"text": text[start:end], "label": span.label, "start": start, "end": end}
        entities.append({**found, "score": float(np.array(chosen, np.float32).mean())})
    return entities


def unigram() -> Any:
    """A tokenizer whose words end at white space alone, as SentencePiece's do, with pieces of one to four letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyzON,.-'!$。我住在北京ไทยกรุง\u0301", "▁"]
    pieces = [(letter, -5.0) for letter in dict.fromkeys(letters)] + [("我住", -6.0), ("北京", -6.0), ("▁the", -4.0)]
    backend = Tokenizer(models.Unigram([("<unk>", -20.0), *pieces, ("fil", -4.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")


@pytest.fixture(params=range(16))
def examples(request: pytest.FixtureRequest, tokenizer: Any) -> Examples:
    """Rows of up to 40 pieces, some without any, in windows of 8 to 32 tokens or cut; words or plain strings."""
    tokenizer = unigram() if request.param >= 12 else tokenizer
    random = np.random.default_rng(request.param)
    texts = [" ".join(random.choice(PIECES, random.integers(0, 40))) for _ in range(random.integers(0, 25))]
    length = int(random.integers(8, 32))
    long_text = ["window", "truncate"][request.param % 2]
    are_words = bool(request.param // 2 % 2)
    return examples_of(
        tokenizer, texts, are_words=are_words, max_length=length, stride=length // 3, long_text=long_text
    )


def test_words_and_their_tokens_are_those_of_each_row(examples: Examples) -> None:
    words, expected = find_words(examples), simple_words(examples)
    spoken = speaking_tokens(examples.tokens, words)
    assert len(words.offsets) == examples.tokens.num_rows + 1
    for row, (ranges, chosen) in enumerate(expected):
        part = slice(words.offsets[row], words.offsets[row + 1])
        assert np.stack([words.starts[part], words.ends[part]], axis=1).tolist() == ranges.tolist()
        assert spoken[part].tolist() == chosen.tolist()


def test_a_word_begins_once_in_each_window_that_holds_its_first_token(examples: Examples) -> None:
    words = find_words(examples)
    found = find_beginnings(examples.tokens, words)
    expected = []
    for row in range(examples.tokens.num_rows):
        part = slice(words.offsets[row], words.offsets[row + 1])
        ranges = np.stack([words.starts[part], words.ends[part]], axis=1)
        windows = np.flatnonzero(examples.tokens.window_rows == row).tolist()
        for window, firsts in zip(windows, simple_first_tokens(examples, ranges, windows), strict=True):
            expected += [(window, part.start + word, first) for word, first in enumerate(firsts) if first >= 0]
    assert list(zip(found.windows, found.words, found.tokens, strict=True)) == expected


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_entities_are_those_of_each_row_to_the_last_bit(examples: Examples, scale: float) -> None:
    """With small logits entities are long: the mean of many words is rounded as numpy rounds it."""
    random = np.random.default_rng(len(examples.tokens.ids))
    logits = random.normal(scale=scale, size=(len(examples.tokens.ids), len(LABELS))).astype(np.float32)
    logits[:, 2] += 1.0 if scale < 1 else 0.0  # mostly inside a LOC
    (found,) = TokenClassification().decode(outputs_of(logits), examples, Learned(LABELS))
    texts, scores = examples.texts[-1].to_pylist(), softmax(logits)
    expected = [simple_entities(text, *row, scores) for text, row in zip(texts, simple_words(examples), strict=True)]
    assert found.to_pylist() == expected
    assert isinstance(found, pa.ListArray)


def test_a_word_of_white_space_is_split_at_punctuation_and_between_letters_without_spaces() -> None:
    examples = examples_of(unigram(), ["the film, the", "我住在北京。"])
    words = find_words(examples)
    texts = examples.texts[-1].to_pylist()
    found = [texts[row][start:end] for row, start, end in zip(words.rows, words.starts, words.ends, strict=True)]
    assert found == ["the", "film", ",", "the", "我住", "在", "北京", "。"]
    assert (speaking_tokens(examples.tokens, words) >= 0).all()


def test_a_word_whose_first_character_is_dropped_is_heard(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["the \u200bfilm"], are_words=True)
    words = find_words(examples)
    assert speaking_tokens(examples.tokens, words).tolist() == [1, 2]
