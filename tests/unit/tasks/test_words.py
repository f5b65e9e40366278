"""Words, their tokens and entities of many rows at once, against loops over rows and windows that do it one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.tasks.base import Examples, Learned
from pipeline.tasks.numbers import softmax
from pipeline.tasks.tagging import OUTSIDE, read_tags
from pipeline.tasks.token_classification import TokenClassification
from pipeline.tasks.words import find_beginnings, find_words, speaking_tokens
from tests.unit.tasks.parts import examples_of, outputs_of

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "E-PER", "S-LOC")
PIECES = ["the", "film", "xyz", "O'Neill", "e-mail,", "", " ", "שלום", "🎉", "e\u0301te", "\u200d", "good", "a\r\nb"]


def simple_ranges(examples: Examples, text: str, windows: list[int]) -> np.ndarray:
    """Character ranges of a row's words."""
    if examples.are_words:
        lengths = np.array([len(word) for word in text.split(" ")], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
        return np.stack([starts, starts + lengths], axis=1)
    tokens, found = examples.tokens, dict[int, tuple[int, int]]()
    assert tokens.spans is not None
    assert tokens.words is not None
    for window in windows:
        for place in range(tokens.offsets[window], tokens.offsets[window + 1]):
            word, (start, end) = int(tokens.words[place]), tokens.spans[place]
            if word >= 0 and end > start:
                low, high = found.get(word, (int(start), int(end)))
                found[word] = (min(low, int(start)), max(high, int(end)))
    return np.array([found[word] for word in sorted(found)], np.int64).reshape(-1, 2)


def simple_first_tokens(examples: Examples, ranges: np.ndarray, window: int) -> list[int]:
    """For each word the first token of a window that begins in it, or -1."""
    tokens = examples.tokens
    assert tokens.spans is not None
    found = [-1] * len(ranges)
    for place in range(tokens.offsets[window], tokens.offsets[window + 1]):
        start, end = (int(edge) for edge in tokens.spans[place])
        owners = [word for word, (first, _) in enumerate(ranges) if first <= end - 1]
        if end > start and owners and end <= ranges[owners[-1]][1] and start <= ranges[owners[-1]][0]:
            found[owners[-1]] = place if found[owners[-1]] < 0 else found[owners[-1]]
    return found


def simple_words(examples: Examples) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ranges of each row's words, and the token that speaks for each."""
    tokens, rows = examples.tokens, []
    for row, text in enumerate(examples.texts[-1].to_pylist()):
        windows = np.flatnonzero(tokens.window_rows == row).tolist()
        ranges = simple_ranges(examples, text, windows)
        chosen, margin = np.full(len(ranges), -1, np.int64), np.full(len(ranges), -1, np.int64)
        for window in windows:
            base, stop = int(tokens.offsets[window]), int(tokens.offsets[window + 1])
            for word, first in enumerate(simple_first_tokens(examples, ranges, window)):
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


@pytest.fixture(params=range(12))
def examples(request: pytest.FixtureRequest, tokenizer: Any) -> Examples:
    """Rows of up to 40 pieces, some without any, in windows of 8 to 32 tokens or cut; words or plain strings."""
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
    for window, row in enumerate(examples.tokens.window_rows):
        part = slice(words.offsets[row], words.offsets[row + 1])
        ranges = np.stack([words.starts[part], words.ends[part]], axis=1)
        firsts = simple_first_tokens(examples, ranges, window)
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
