"""Text -> token ids, as ragged arrays: flat id arrays and window offsets, no Python list per row kept.

Shape letters: R rows, W windows (one per row unless long text is windowed), T tokens of all windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.encoder.precut import Precutter
from pipeline.errors import ModelError

_CHUNK_ROWS = {1: 2_048, 2: 64}  # by texts of a row: windows of two long ones are multiplied


@dataclass(frozen=True)
class TokenOptions:
    """How text becomes tokens.

    Attributes:
        max_length: Tokens of one window, special tokens included.
        long_text: `truncate` keeps the first window (the last, if the tokenizer's `truncation_side` is left),
            `window` makes as many as it takes, from the left.
        stride: Tokens that neighbouring windows share.
        with_spans: Keep each token's character range and word number (tagging and question answering need them).
    """

    max_length: int
    long_text: Literal["truncate", "window"] = "truncate"
    stride: int = 0
    with_spans: bool = False


@dataclass(frozen=True)
class TokenRows:
    """Token ids of many rows.

    Attributes:
        ids: int32 [T], windows back to back, special tokens included.
        offsets: int64 [W + 1]; window i is `ids[offsets[i]:offsets[i + 1]]`.
        truncated: bool [R]; the text had more tokens than were kept.
        row_of: int64 [W], ascending; the row a window belongs to. None: one window per row.
        type_ids: uint8 [T]; segment of each token. None: all zero.
        spans: int32 [T, 2]; character range in the row's last text, -1 for tokens that are not of it.
        words: int32 [T]; the tokenizer's word number, -1 where `spans` is.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    row_of: npt.NDArray[np.int64] | None = None
    type_ids: npt.NDArray[np.uint8] | None = None
    spans: npt.NDArray[np.int32] | None = None
    words: npt.NDArray[np.int32] | None = None

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each window [W]."""
        return np.diff(self.offsets)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.truncated)

    @property
    def window_rows(self) -> npt.NDArray[np.int64]:
        """The row of each window [W]."""
        return self.row_of if self.row_of is not None else np.arange(len(self), dtype=np.int64)

    @property
    def row_tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, over all its windows [R]."""
        return np.bincount(self.window_rows, weights=self.lengths, minlength=self.num_rows).astype(np.int64)

    @property
    def row_windows(self) -> npt.NDArray[np.int64]:
        """Windows of each row [R]."""
        return np.bincount(self.window_rows, minlength=self.num_rows)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, windows: npt.NDArray[np.int64]) -> TokenRows:
        """Some windows as rows of their own, in the order given, without spans and words; one window a row before."""
        flat = flat_positions(self, windows)
        return TokenRows(
            self.ids[flat],
            concat_lengths([self.lengths[windows]]),
            self.truncated[windows],
            type_ids=None if self.type_ids is None else self.type_ids[flat],
        )

    def of_rows(self, rows: npt.NDArray[np.int64]) -> TokenRows:
        """Some rows, ascending, with all their windows."""
        windows = np.flatnonzero(np.isin(self.window_rows, rows))
        flat = flat_positions(self, windows)
        return TokenRows(
            self.ids[flat],
            concat_lengths([self.lengths[windows]]),
            self.truncated[rows],
            None if self.row_of is None else np.searchsorted(rows, self.row_of[windows]),
            None if self.type_ids is None else self.type_ids[flat],
            None if self.spans is None else self.spans[flat],
            None if self.words is None else self.words[flat],
        )

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """The ids of one window."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


class TextTokenizer:
    """A fast tokenizer with one set of options, safe to use from one thread.

    Args:
        tokenizer: A Hugging Face fast tokenizer.
        options: Lengths, windows, spans.

    Raises:
        ModelError: the tokenizer has no fast (Rust) form, or the window leaves no room to move on.
    """

    def __init__(self, tokenizer: Any, options: TokenOptions) -> None:
        backend = _fast_form(tokenizer)
        windowed = options.long_text == "window"
        self._room = options.max_length - backend.num_special_tokens_to_add(is_pair=True)
        if windowed and options.stride >= self._room:
            raise _not_moving(options, self._room)
        self._unknown_id = tokenizer.unk_token_id
        self._backend = backend
        self._options = options
        self._stride = options.stride if windowed else 0
        side = getattr(tokenizer, "truncation_side", "right")  # a CountingTokenizer has none: as many are kept
        self._direction = "right" if windowed else side
        self._backend.no_padding()
        self._precutter = Precutter(backend, options.max_length, self._direction)
        self._uses_types = "token_type_ids" in tokenizer.model_input_names
        self._types_vary = any(backend.encode("").type_ids)  # XLNet: even a single text's last token has its own

    def count_unknown(self, rows: TokenRows) -> int:
        """Tokens that stand for what the vocabulary does not have."""
        return 0 if self._unknown_id is None else int(np.count_nonzero(rows.ids == self._unknown_id))

    def encode(self, *texts: pa.Array | pa.ChunkedArray) -> TokenRows:
        """Tokenise one text per row, or a pair of them.

        Args:
            texts: One or two string arrays without nulls [R]. In a pair only the second is cut or windowed when
                spans are asked for (a question keeps its context; beyond half a window it is cut itself), else the
                longer of the two.

        Raises:
            ModelError: windows of both texts of a pair are asked for, and share so much that they cannot move on.
        """
        is_question = len(texts) == 2 and self._options.with_spans
        if len(texts) == 2 and not is_question:
            self._check_halves()
        strategy = "only_second" if is_question else "longest_first"
        encode = self._backend.encode_batch if self._options.with_spans else self._backend.encode_batch_fast
        with_types = self._uses_types and (len(texts) == 2 or self._types_vary)
        collector = _Collector(self._options, with_types, len(texts) - 1)
        num_rows = _CHUNK_ROWS[len(texts)]
        for start in range(0, len(texts[0]), num_rows):
            chunks = [text.slice(start, num_rows).to_pylist() for text in texts]
            if self._options.long_text == "truncate":  # windows need the whole text
                chunks = self._precut(chunks, is_question)
            whole = chunks[0]
            if is_question:
                chunks[0] = self._fitting(whole)
            batch = chunks[0] if len(chunks) == 1 else list(zip(*chunks, strict=True))
            self._backend.enable_truncation(
                self._options.max_length, stride=self._stride, strategy=strategy, direction=self._direction
            )
            for encoding, text, kept in zip(encode(batch), whole, chunks[0], strict=True):
                collector.add(encoding, was_cut=text != kept)
        return collector.collect()

    def _check_halves(self) -> None:
        """Two long texts get half of the room each."""
        if self._stride and self._stride >= self._room // 2:
            raise _not_moving(self._options, self._room // 2)

    def _precut(self, chunks: list[list[str]], is_question: bool) -> list[list[str]]:
        """Enormous texts without what decides nothing; of a question and its context, neither decides for the other."""
        if len(chunks) == 2 and not is_question:
            return list(self._precutter.cut_pairs(*chunks))
        return [self._precutter.cut(texts) for texts in chunks]

    def _fitting(self, questions: list[str]) -> list[str]:
        """Questions cut to half a window, and so that a context can move on behind them."""
        limit = max(0, min(self._room // 2, self._room - self._stride - 1))
        self._backend.no_truncation()
        fitting = []
        encodings = self._backend.encode_batch(questions, add_special_tokens=False)
        for text, encoding in zip(questions, encodings, strict=True):
            kept, offsets = text, encoding.offsets
            while len(offsets) > limit:  # a shorter text may be split otherwise, so it is looked at again
                kept = kept[: min(offsets[limit][0], len(kept) - 1)]
                offsets = self._backend.encode(kept, add_special_tokens=False).offsets
            fitting.append(kept)
        return fitting


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """Hash of all that decides which tokens a text becomes, whatever files it was loaded from.

    Args:
        tokenizer: A Hugging Face fast tokenizer, as it was loaded.

    Raises:
        ModelError: the tokenizer has no fast (Rust) form.
    """
    decides = [_fast_form(tokenizer).to_str(), list(tokenizer.model_input_names), tokenizer.truncation_side]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _fast_form(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} has no fast form",
            "save it with a tokenizer.json (tokenizer.save_pretrained of a fast tokenizer)",
        )
    return backend


def _not_moving(options: TokenOptions, room: int) -> ModelError:
    return ModelError(
        f"windows of {options.max_length} tokens that share {options.stride} cannot move on",
        f"use a stride below {room}, or a greater max_length",
    )


class _Collector:
    """Gathers encodings into flat arrays."""

    def __init__(self, options: TokenOptions, with_types: bool, last_sequence: int) -> None:
        self._options, self._with_types, self._last_sequence = options, with_types, last_sequence
        self._ids: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
        self._types: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        self._spans: list[npt.NDArray[np.int32]] = [np.zeros((0, 2), np.int32)]
        self._words: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)]
        self._rows: list[int] = []
        self._truncated: list[bool] = []

    def add(self, encoding: Any, was_cut: bool) -> None:
        overflowing = encoding.overflowing
        windowed = self._options.long_text == "window"
        row = len(self._truncated)
        self._truncated.append(was_cut or (bool(overflowing) and not windowed))
        for window in [encoding, *overflowing] if windowed else [encoding]:
            self._rows.append(row)
            self._ids.append(np.asarray(window.ids, np.int32))
            if self._with_types:
                self._types.append(np.asarray(window.type_ids, np.uint8))
            if self._options.with_spans:
                self._add_spans(window)

    def _add_spans(self, window: Any) -> None:
        inside = np.array([sequence == self._last_sequence for sequence in window.sequence_ids], np.bool_)
        spans = np.asarray(window.offsets, np.int32).reshape(-1, 2)
        words = np.array([-1 if word is None else word for word in window.word_ids], np.int32)
        self._spans.append(np.where(inside[:, None], spans, -1).astype(np.int32))
        self._words.append(np.where(inside, words, -1).astype(np.int32))

    def collect(self) -> TokenRows:
        offsets = np.cumsum([len(ids) for ids in self._ids]).astype(np.int64)
        windowed = len(self._rows) != len(self._truncated)
        with_spans = self._options.with_spans
        return TokenRows(
            np.concatenate(self._ids),
            offsets,
            np.array(self._truncated, np.bool_),
            np.array(self._rows, np.int64) if windowed else None,
            np.concatenate(self._types) if self._with_types else None,
            np.concatenate(self._spans) if with_spans else None,
            np.concatenate(self._words) if with_spans else None,
        )


def interleave_rows(parts: Sequence[TokenRows]) -> TokenRows:
    """Several texts of each row, one window each -> one sequence: all of the first row, all of the second, ...

    Args:
        parts: As many TokenRows as a row has texts, each with one window a row.
    """
    if len(parts) == 1:
        return parts[0]
    types = [part.type_ids for part in parts if part.type_ids is not None]
    joined = TokenRows(
        np.concatenate([part.ids for part in parts]),
        concat_lengths([part.lengths for part in parts]),
        np.concatenate([part.truncated for part in parts]),
        type_ids=np.concatenate(types) if len(types) == len(parts) else None,
    )
    return joined.take(np.arange(len(joined)).reshape(len(parts), -1).T.reshape(-1))


@dataclass(frozen=True)
class PaddedBatch:
    """Windows gathered into one rectangle; int64 arrays [B, S], `types_BS` None where all are zero."""

    ids_BS: npt.NDArray[np.int64]
    mask_BS: npt.NDArray[np.int64]
    types_BS: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Padding:
    """What a tokenizer pads with; on which side is its model's business, whatever the tokenizer says."""

    pad_id: int

    @classmethod
    def of(cls, tokenizer: Any) -> Padding:
        """That of a Hugging Face tokenizer."""
        pad_id = tokenizer.pad_token_id
        return cls(0 if pad_id is None else pad_id)


def pad_rows(rows: TokenRows, indices: npt.NDArray[np.int64], padding: Padding, left: bool = False) -> PaddedBatch:
    """Gather windows, padded to the longest, on the right or the left."""
    lengths_B = rows.lengths[indices]
    width = int(lengths_B.max(initial=0))
    columns_S = np.arange(width)
    start_B1 = (width - lengths_B)[:, None] if left else np.zeros((len(indices), 1), np.int64)
    inside_BS = (columns_S >= start_B1) & (columns_S < start_B1 + lengths_B[:, None])
    flat = flat_positions(rows, indices)
    ids_BS = np.full((len(indices), width), padding.pad_id, np.int64)
    ids_BS[inside_BS] = rows.ids[flat]
    types_BS = None
    if rows.type_ids is not None:
        types_BS = np.zeros((len(indices), width), np.int64)
        types_BS[inside_BS] = rows.type_ids[flat]
    return PaddedBatch(ids_BS, inside_BS.astype(np.int64), types_BS)


def flat_positions(rows: TokenRows, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where in the flat arrays the tokens of some windows stand, window after window."""
    lengths_B = rows.lengths[indices]
    ends_B = np.cumsum(lengths_B)
    within = np.arange(int(lengths_B.sum())) - np.repeat(ends_B - lengths_B, lengths_B)
    return np.asarray(np.repeat(rows.offsets[indices], lengths_B) + within, np.int64)


def concat_lengths(arrays: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Offsets from the lengths of several pieces."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *arrays]))]).astype(np.int64)
