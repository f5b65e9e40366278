"""Words of many rows at once, and the tokens that speak for them: arrays in, arrays out, no Python object per word.

A token begins a word if it starts at or before the word's first character and ends within the word. Shape letters:
R rows, N words of all rows, P places where a word begins, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.tokenize import TokenRows
from pipeline.tasks.base import Examples

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """Words, row after row.

    Attributes:
        offsets: int64 [R + 1]; row i has the words `offsets[i]:offsets[i + 1]`.
        starts, ends: int64 [N]; character ranges in the row's text.
    """

    offsets: IntArray
    starts: IntArray
    ends: IntArray

    @property
    def rows(self) -> IntArray:
        """The row of each word [N]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True)
class Beginnings:
    """Where words begin, window by window; a word has one in each window that holds its first token.

    Attributes:
        windows, words, tokens: int64 [P].
    """

    windows: IntArray
    words: IntArray
    tokens: IntArray


def find_words(examples: Examples) -> Words:
    """The words of each row: those of its list, or else the tokenizer's."""
    return _list_words(examples.texts[-1]) if examples.are_words else _tokenizer_words(examples.tokens)


def find_beginnings(tokens: TokenRows, words: Words) -> Beginnings:
    """The first token of every word in every window; none for words that the tokenizer drops."""
    assert tokens.spans is not None
    inside = np.flatnonzero(tokens.spans[:, 1] > tokens.spans[:, 0])
    windows = np.searchsorted(tokens.offsets, inside, side="right") - 1
    starts, ends, rows = tokens.spans[inside, 0], tokens.spans[inside, 1], tokens.window_rows[windows]
    if not len(inside) or not len(words):
        return Beginnings(*(np.zeros(0, np.int64) for _ in range(3)))
    # A token's last character tells its word: SentencePiece tokens may begin with the space before it.
    reach = max(int(ends.max()), int(words.starts.max())) + 1
    owners = np.searchsorted(words.rows * reach + words.starts, rows * reach + ends - 1, side="right") - 1
    owned = (owners >= 0) & (words.rows[owners] == rows) & (ends <= words.ends[owners])
    begins = owned & (starts <= words.starts[owners])
    _, firsts = np.unique(windows[begins] * len(words) + owners[begins], return_index=True)
    return Beginnings(windows[begins][firsts], owners[begins][firsts], inside[begins][firsts])


def speaking_tokens(tokens: TokenRows, words: Words) -> IntArray:
    """The token that speaks for each word [N], -1 where none does.

    Of windows that overlap, the one in which the word stands furthest from an edge; of equal ones the first.
    """
    found = find_beginnings(tokens, words)
    before = found.tokens - tokens.offsets[found.windows]
    behind = tokens.offsets[found.windows + 1] - 1 - found.tokens
    order = np.lexsort((-np.minimum(before, behind), found.words))  # stable: windows stay in order
    spoken, firsts = np.unique(found.words[order], return_index=True)
    chosen = np.full(len(words), -1, np.int64)
    chosen[spoken] = found.tokens[order][firsts]
    return chosen


def _list_words(texts: pa.ChunkedArray) -> Words:
    """What stands between single spaces."""
    parts = pc.split_pattern(texts.combine_chunks() if len(texts) else pa.array([], pa.large_string()), " ")
    counts = pc.list_value_length(parts).to_numpy(zero_copy_only=False)
    lengths = pc.utf8_length(pc.list_flatten(parts)).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.concatenate([[0], np.cumsum(lengths + 1)])
    starts = places[:-1] - np.repeat(places[offsets[:-1]], counts)
    return Words(offsets, starts, starts + lengths)


def _tokenizer_words(tokens: TokenRows) -> Words:
    """Character range of each of the tokenizer's words, over all windows of a row."""
    assert tokens.spans is not None
    assert tokens.words is not None
    inside = np.flatnonzero((tokens.words >= 0) & (tokens.spans[:, 1] > tokens.spans[:, 0]))
    rows = np.repeat(tokens.window_rows, tokens.lengths)[inside]
    keys = rows * (int(tokens.words.max(initial=0)) + 1) + tokens.words[inside]
    order = np.argsort(keys, kind="stable")
    _, firsts = np.unique(keys[order], return_index=True)
    if not len(firsts):
        return Words(np.zeros(tokens.num_rows + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    starts, ends = tokens.spans[inside[order]].T.astype(np.int64)
    offsets = np.searchsorted(rows[order][firsts], np.arange(tokens.num_rows + 1))
    return Words(offsets, np.minimum.reduceat(starts, firsts), np.maximum.reduceat(ends, firsts))
