"""Enormous texts are cut before they are tokenised, where that cannot change a token that is kept.

A text is cut at a plain space between two letters or digits, and only for tokenizers whose every part looks no further
than the words on either side of such a space. What stands before it then has the same tokens with and without the rest
of the text; and if these are more than are kept, the rest decides nothing.

Two long texts of a pair cost so much together that they are tokenised alone first. Then they are cut anywhere, by any
tokenizer, at their beginning where their end is kept, if a look at the tokens of what is left finds the same ones kept.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

CHARS_PER_TOKEN = 16  # of the first cut tried; English has 4 to 5
_WORTH_IT = 4  # times the first cut: a shorter text is not looked at
_WORTH_IT_IN_PAIRS = 1  # whose windows are multiplied, in time and memory: see `Precutter.cut_pairs`
_BYTES_PER_TOKEN = 6  # of both texts of a pair: the windows of shorter English ones take less time than a look at each
_MARGIN_TOKENS = 128  # left between a cut and what is kept: tokens beside a cut may be others
_CHECKED_CHARS = 2**19  # tokenised whole at once: some hundred bytes a token
_SPACES_TRIED = 64
_PLAIN = {"Lu", "Ll", "Nd"}  # never joined with a space by any normal form, unlike some of the other letters
_LOCAL_NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Nmt"),
    *("Precompiled", "Strip", "Prepend"),
}
_SPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel"}
_LOCAL_PRE_TOKENIZERS = {*_SPACE_SPLITTERS, "Punctuation", "Digits"}
_LOCAL_MODELS = {"WordPiece", "BPE", "Unigram", "WordLevel"}  # within what the pre-tokenizer leaves together


@dataclass(frozen=True)
class _Whole:
    """A text and all of its tokens, as the Rust tokenizer gives them."""

    text: str
    tokens: Any

    def part(self, num_tokens: int, direction: str) -> str:
        """The text as far as so many tokens reach, from where it is kept; nothing if it has no more of them."""
        if len(self.tokens) <= num_tokens:
            return ""
        if direction == "left":
            return self.text[self.tokens.token_to_chars(len(self.tokens) - num_tokens)[0] :]
        return self.text[: self.tokens.token_to_chars(num_tokens - 1)[1]]


class Precutter:
    """Cuts texts for one tokenizer.

    Args:
        backend: The Rust tokenizer; its truncation is switched off by a cut.
        max_length: Tokens that are kept of a text at most.
        direction: Where texts are truncated: on the right their beginning is kept, on the left their end.
    """

    def __init__(self, backend: Any, max_length: int, direction: str = "right") -> None:
        self._backend, self._max_length, self._direction = backend, max_length, direction
        self._first_chars = CHARS_PER_TOKEN * max_length

    def cut(self, texts: list[str]) -> list[str]:
        """Each text, or enough of its beginning to hold more than `max_length` tokens; the same objects if none is."""
        return self._cut_beyond(dict.fromkeys(self._long(texts, _WORTH_IT), self._max_length), texts)

    def cut_pairs(self, lefts: list[str], rights: list[str]) -> tuple[list[str], list[str]]:
        """The same for pairs, of which the longer text stays the longer one: that decides what is kept of each.

        The Rust tokenizer makes every pair of the windows of two long texts and throws all but one away: its time
        and memory grow with the product of their lengths.
        """
        long_left, long_right = (set(self._long(texts, _WORTH_IT_IN_PAIRS)) for texts in (lefts, rights))
        if self._is_local:  # one long text: all of it need not be tokenised
            lefts, rights = (
                self._cut_beyond(self._more_than(long_left - long_right, rights), lefts),
                self._cut_beyond(self._more_than(long_right - long_left, lefts), rights),
            )
        pairs = list(zip(lefts, rights, strict=True))
        for rows in self._chunk_long_pairs(pairs):
            cut = self._cut_checked([pairs[row][0] for row in rows], [pairs[row][1] for row in rows])
            for row, pair in zip(rows, cut, strict=True):
                pairs[row] = pair
        return [left for left, _ in pairs], [right for _, right in pairs]

    def _chunk_long_pairs(self, pairs: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
        """Rows whose texts are long together, as many as may be tokenised whole at once."""
        rows: list[int] = []
        num_chars, most_bytes = 0, _BYTES_PER_TOKEN * self._max_length
        for row, (left, right) in enumerate(pairs):
            multiplied = len(left.encode()) * len(right.encode()) > most_bytes**2
            if multiplied or max(len(left), len(right)) > self._first_chars * _WORTH_IT_IN_PAIRS:
                rows.append(row)
                num_chars += len(left) + len(right)
            if num_chars > _CHECKED_CHARS:
                yield rows
                rows, num_chars = [], 0
        if rows:
            yield rows

    def _cut_checked(self, lefts: Sequence[str], rights: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs cut where the same tokens are kept; of each, the text with fewer tokens first, so that order stays."""
        pairs = list(zip(self._encode_wholes(lefts), self._encode_wholes(rights), strict=True))
        swapped = [len(left.tokens) > len(right.tokens) for left, right in pairs]
        ordered = [(pair[swap], pair[not swap]) for pair, swap in zip(pairs, swapped, strict=True)]
        fewer = self._cut_wholes([whole for whole, _ in ordered], [0] * len(ordered))
        more = self._cut_wholes([whole for _, whole in ordered], [count for _, count in fewer])
        return [
            (second, first) if swap else (first, second)
            for (first, _), (second, _), swap in zip(fewer, more, swapped, strict=True)
        ]

    def _encode_wholes(self, texts: Sequence[str]) -> list[_Whole]:
        self._backend.no_truncation()
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [_Whole(text, tokens) for text, tokens in zip(texts, encodings, strict=True)]

    def _cut_wholes(self, wholes: Sequence[_Whole], others: Sequence[int]) -> list[tuple[str, int]]:
        """Texts with more tokens than are kept and than the other has, the whole one if need be; and how many."""
        least = [max(self._max_length, other) for other in others]
        parts = [whole.part(num + _MARGIN_TOKENS, self._direction) for whole, num in zip(wholes, least, strict=True)]
        cuts = self._backend.encode_batch_fast(parts, add_special_tokens=False)
        result = []
        for whole, num, part, cut in zip(wholes, least, parts, cuts, strict=True):
            is_good = num < len(cut) < len(whole.tokens) and self._kept(cut) == self._kept(whole.tokens)
            result.append((part, len(cut)) if is_good else (whole.text, len(whole.tokens)))
        return result

    def _kept(self, encoding: Any) -> list[int]:
        ids: list[int] = encoding.ids
        return ids[-self._max_length :] if self._direction == "left" else ids[: self._max_length]

    def _long(self, texts: Iterable[str], worth_it: int) -> list[int]:
        least = self._first_chars * worth_it
        return [row for row, text in enumerate(texts) if len(text) > least]

    def _more_than(self, rows: Iterable[int], others: Sequence[str]) -> dict[int, int]:
        """Row -> tokens to exceed: as many as are kept, and as many as the other text has, so that order stays."""
        wanted = sorted(rows)
        counts = self._count([others[row] for row in wanted])
        return {row: max(self._max_length, count) for row, count in zip(wanted, counts, strict=True)}

    def _cut_beyond(self, least: dict[int, int], texts: list[str]) -> list[str]:
        if not least or not self._is_local:
            return texts
        result, pending, num_chars = list(texts), sorted(least), self._first_chars
        while pending:  # a text that no cut shortens well enough stays whole
            pending = [row for row in pending if len(texts[row]) > num_chars]
            ends = [_find_cut(texts[row], num_chars) for row in pending]
            heads = [texts[row][:end] for row, end in zip(pending, ends, strict=True)]
            enough = [count > least[row] for row, count in zip(pending, self._count(heads), strict=True)]
            for row, head, is_enough in zip(pending, heads, enough, strict=True):
                if is_enough:
                    result[row] = head
            pending = [row for row, is_enough in zip(pending, enough, strict=True) if not is_enough]
            num_chars *= 4
        return result

    def _count(self, texts: list[str]) -> list[int]:
        self._backend.no_truncation()
        return [len(item.ids) for item in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    @cached_property
    def _is_local(self) -> bool:
        """Whether beginnings are kept, by a tokenizer whose parts all look no further than a space between words."""
        backend = self._backend
        splitters = set(_parts(backend.pre_tokenizer, "pretokenizers", _splits_at_spaces))
        model = backend.model
        return (
            self._direction == "right"
            and all(_parts(backend.normalizer, "normalizers", _is_local_normalizer))
            and all(_parts(backend.pre_tokenizer, "pretokenizers", _is_local_pre_tokenizer))
            and True in splitters
            and type(model).__name__ in _LOCAL_MODELS
            and not getattr(model, "dropout", None)
            and not any(" " in token.content for token in backend.get_added_tokens_decoder().values())
        )


def _find_cut(text: str, end: int) -> int:
    """The last place before `end` to cut at; 0 if there is none near."""
    for _ in range(_SPACES_TRIED):
        end = text.rfind(" ", 1, end)
        if end < 0:
            return 0
        if unicodedata.category(text[end - 1]) in _PLAIN and unicodedata.category(text[end + 1]) in _PLAIN:
            return end
    return 0


def _parts(component: Any, inner: str, judge: Any) -> Iterator[bool]:
    """What `judge` says of a component, or of each one in its sequence; nothing of none."""
    if component is not None:
        state = json.loads(component.__getstate__())
        yield from map(judge, state[inner] if state["type"] == "Sequence" else [state])


def _is_local_normalizer(state: dict[str, Any]) -> bool:
    if state["type"] == "Replace":
        pattern = state["pattern"]
        return " " not in pattern["String"] if "String" in pattern else pattern["Regex"] == " {2,}"
    return state["type"] in _LOCAL_NORMALIZERS


def _is_local_pre_tokenizer(state: dict[str, Any]) -> bool:
    return state["type"] in _LOCAL_PRE_TOKENIZERS


def _splits_at_spaces(state: dict[str, Any]) -> bool:
    kind = state["type"]
    if kind == "ByteLevel":
        return bool(state["use_regex"])
    return kind in _SPACE_SPLITTERS and (kind != "Metaspace" or bool(state.get("split", True)))
