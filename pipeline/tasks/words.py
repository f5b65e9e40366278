"""Words of many rows at once, and the tokens that speak for them: arrays in, arrays out, no Python object per word.

A word of the tokenizer is split between two tokens where a character on either side stands alone: punctuation, and
letters of scripts that are written without spaces or, as Korean, put particles behind a word. BERT's own tokenizer
splits at punctuation and Han; byte-level BPE and SentencePiece leave `Paris,` and whole Chinese sentences as one word.
A word's first token begins it. Shape letters: R rows, N words of all rows, P places where a word begins, C characters.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoder.tokenize import TokenRows
from pipeline.tasks.base import Examples

IntArray = npt.NDArray[np.int64]

_ASCII_SYMBOLS = frozenset("$+<=>^`|~")  # not in Unicode's punctuation, but in BERT's
_ALONE = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Burmese, Khmer
    *((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),  # kana
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # Han
    (0xAC00, 0xD7AF),  # Hangul
)


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
    """The words of each row: those of its list, or else the tokenizer's, split where a character stands alone."""
    texts = examples.texts[-1]
    return _list_words(texts) if examples.are_words else _tokenizer_words(examples.tokens, texts)


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
    earliest = np.full(len(words), reach)  # the first that is left: a tokenizer may drop a word's first characters
    np.minimum.at(earliest, owners[owned], starts[owned])
    begins = owned & (starts <= np.maximum(words.starts, earliest)[owners])
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


def _tokenizer_words(tokens: TokenRows, texts: pa.ChunkedArray) -> Words:
    """Character range of each of the tokenizer's words, over all windows of a row."""
    assert tokens.spans is not None
    assert tokens.words is not None
    inside = np.flatnonzero((tokens.words >= 0) & (tokens.spans[:, 1] > tokens.spans[:, 0]))
    if not len(inside):
        return Words(np.zeros(tokens.num_rows + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    rows = np.repeat(tokens.window_rows, tokens.lengths)[inside].astype(np.int64)
    starts, ends = tokens.spans[inside].T.astype(np.int64)
    order = np.lexsort((ends, starts, tokens.words[inside], rows))
    rows, words, starts, ends = rows[order], tokens.words[inside][order], starts[order], ends[order]
    is_other = np.append(True, (rows[1:] != rows[:-1]) | (words[1:] != words[:-1]))
    firsts = np.flatnonzero(is_other | _splits(rows, starts, ends, texts))
    offsets = np.searchsorted(rows[firsts], np.arange(tokens.num_rows + 1))
    return Words(offsets, np.minimum.reduceat(starts, firsts), np.maximum.reduceat(ends, firsts))


def _splits(rows: IntArray, starts: IntArray, ends: IntArray, texts: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which tokens, in order, begin a word of their own behind the token before."""
    texts = pc.utf8_slice_codeunits(texts, 0, int(ends.max()))  # of texts of megabytes the beginning is tokenised alone
    codes_C = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    bases = (np.cumsum(lengths) - lengths)[rows]
    before, first = codes_C[(bases + ends)[:-1] - 1], codes_C[(bases + starts)[1:]]
    kinds, places = np.unique(np.concatenate([before, first]), return_inverse=True)
    alone, marks = (
        np.array([is_so(chr(kind)) for kind in kinds.tolist()], np.bool_) for is_so in (stands_alone, is_mark)
    )
    behind, ahead = np.split(places, 2)
    return np.append(False, (starts[1:] >= ends[:-1]) & (alone[behind] | alone[ahead]) & ~marks[ahead])


@cache
def stands_alone(character: str) -> bool:
    """Whether a token that begins or ends with this character may be a word of its own within a tokenizer's word."""
    is_punctuation = unicodedata.category(character).startswith("P") or character in _ASCII_SYMBOLS
    return is_punctuation or any(low <= ord(character) <= high for low, high in _ALONE)


def is_mark(character: str) -> bool:
    """Whether a character belongs to the one before it, as an accent or a vowel sign."""
    return unicodedata.category(character).startswith("M")
