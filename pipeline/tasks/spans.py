"""The best answer span of many questions at once: arrays in, arrays out, no Python object per window.

Shape letters: T tokens of all windows, W windows, R rows, B windows of one round, S tokens of its longest, K starts or
ends that are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.encoder.tokenize import TokenRows

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_ROUND_CELLS = 1 << 19  # keeps what is in hand below some 50 MB
_NO_TOKEN = np.iinfo(np.int64).max
_ROUNDING = np.float32(1e-4)  # of a sum of two logits of some units in fp32, by far


@dataclass(frozen=True)
class SpanLimits:
    """How many starts and ends are tried in each window, and how long an answer may be."""

    num_best: int = 20
    max_answer_tokens: int = 30


@dataclass(frozen=True)
class BestSpans:
    """The best answer of each question over all its windows.

    Attributes:
        starts, ends: int64 [R]; character range in the context, (0, 0) if no window had a span to offer.
        logits: float32 [R]; start plus end logit of the span, -inf if there is none.
        runners_up: float32 [R]; the same of the best other span, -inf if there is none.
        null_logits: float32 [R]; lowest over windows of the sum of both logits at the first token: how unlikely each
            window finds an answer.
    """

    starts: IntArray
    ends: IntArray
    logits: FloatArray
    runners_up: FloatArray
    null_logits: FloatArray

    @property
    def null_margins(self) -> npt.NDArray[np.float64]:
        """How much better no answer is than this one [R]; answered if below the tuned threshold."""
        return self.null_logits.astype(np.float64) - self.logits.astype(np.float64)


def best_spans(logits: FloatArray, tokens: TokenRows, limits: SpanLimits) -> BestSpans:
    """Choose for each question the span with the highest start plus end logit over all its windows.

    Of equal ones the first window's, the likeliest start's, the likeliest end's; of equally likely tokens the first.
    Scores of two windows are equal where fp32's rounding may have set them apart: a context that repeats itself has
    windows of the same tokens, and which of them comes out higher would depend on the batches they were in.

    Args:
        logits: float32 [T, 2], of starts and of ends.
        tokens: With character spans, -1 for tokens that are not of the context.
        limits: What is tried.
    """
    assert tokens.spans is not None
    first_W, last_W = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
    score_W, next_W = (np.full(len(tokens), -np.inf, np.float32) for _ in range(2))
    for part in _rounds(tokens.lengths, limits):
        first_W[part], last_W[part], score_W[part], next_W[part] = _best_places(logits, tokens, part, limits)
    rows, firsts = np.unique(tokens.window_rows, return_index=True)
    chosen = _first_best(score_W, firsts, tokens.row_windows[rows])
    found = BestSpans(
        np.zeros(tokens.num_rows, np.int64),
        np.zeros(tokens.num_rows, np.int64),
        np.full(tokens.num_rows, -np.inf, np.float32),
        np.full(tokens.num_rows, -np.inf, np.float32),
        np.zeros(tokens.num_rows, np.float32),
    )
    has_span = score_W[chosen] > -np.inf
    found.starts[rows] = np.where(has_span, tokens.spans[first_W[chosen], 0], 0)
    found.ends[rows] = np.where(has_span, tokens.spans[last_W[chosen], 1], 0)
    found.logits[rows] = score_W[chosen]
    if len(rows):
        null_W = logits[tokens.offsets[:-1]].sum(axis=1)
        found.null_logits[rows] = np.minimum.reduceat(null_W, firsts)
        ranges_W2 = np.stack([tokens.spans[first_W, 0], tokens.spans[last_W, 1]], axis=1)
        is_chosen_W = (ranges_W2 == np.repeat(ranges_W2[chosen], tokens.row_windows[rows], axis=0)).all(axis=1)
        found.runners_up[rows] = np.maximum.reduceat(np.where(is_chosen_W, next_W, score_W), firsts)
    return found


def _first_best(score_W: FloatArray, firsts: IntArray, counts: IntArray) -> IntArray:
    """Each row's first window whose score is its highest; `firsts` and `counts` say which windows are a row's."""
    if not len(firsts):
        return firsts
    least_W = np.repeat(np.maximum.reduceat(score_W, firsts) - _ROUNDING, counts)
    places_W = np.where(score_W >= least_W, np.arange(len(score_W)), len(score_W))
    return np.asarray(np.minimum.reduceat(places_W, firsts), np.int64)


def _rounds(lengths: IntArray, limits: SpanLimits) -> Iterator[IntArray]:
    """Windows of like length, so many at a time that what is computed of them fits a small memory."""
    order, start = np.argsort(lengths, kind="stable"), 0
    while start < len(order):
        widest = max(int(lengths[order[min(start + _ROUND_CELLS // limits.num_best**2, len(order)) - 1]]), 1)
        stop = start + max(1, _ROUND_CELLS // max(widest, limits.num_best**2))
        yield order[start:stop]
        start = stop


def _best_places(
    logits: FloatArray, tokens: TokenRows, windows: IntArray, limits: SpanLimits
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """First and last token of each window's best span [B], as places in [T], its score and the next one's, or -inf."""
    assert tokens.spans is not None
    lengths_B1 = tokens.lengths[windows][:, None]
    columns_S = np.arange(int(lengths_B1.max()))
    places_BS = tokens.offsets[windows][:, None] + np.minimum(columns_S, np.maximum(lengths_B1 - 1, 0))
    inside_BS = (columns_S < lengths_B1) & (tokens.spans[places_BS, 0] >= 0)
    starts_BK = _likeliest(logits[places_BS, 0], inside_BS, limits.num_best)
    ends_BK = _likeliest(logits[places_BS, 1], inside_BS, limits.num_best)
    scores_BK_1, scores_B1K = (
        np.where(found < 0, -np.inf, np.take_along_axis(logits[places_BS, side], np.maximum(found, 0), axis=1))
        for side, found in enumerate((starts_BK, ends_BK))
    )
    sums_BKK = (scores_BK_1[:, :, None] + scores_B1K[:, None, :]).astype(np.float32)
    lengths_BKK = ends_BK[:, None, :] - starts_BK[:, :, None] + 1
    is_span = (lengths_BKK >= 1) & (lengths_BKK <= limits.max_answer_tokens)
    is_span &= (starts_BK >= 0)[:, :, None] & (ends_BK >= 0)[:, None, :]
    flat = np.where(is_span, sums_BKK, -np.inf).reshape(len(windows), -1)
    best_B = flat.argmax(axis=1)
    rows = np.arange(len(windows))
    scores_B = _numbers(flat[rows, best_B])
    flat[rows, best_B] = -np.inf
    first_B = places_BS[rows, np.maximum(starts_BK[rows, best_B // ends_BK.shape[1]], 0)]
    last_B = places_BS[rows, np.maximum(ends_BK[rows, best_B % ends_BK.shape[1]], 0)]
    return first_B, last_B, scores_B, _numbers(flat.max(axis=1))


def _numbers(scores: FloatArray) -> FloatArray:
    """Without NaN, which is worse than any number."""
    return np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf).astype(np.float32)


def _likeliest(logits_BS: FloatArray, inside_BS: npt.NDArray[np.bool_], num_best: int) -> IntArray:
    """Columns of each window's highest logits [B, K], highest first, of equal ones the first; -1 where there are fewer.

    A float's bits, read as an integer, order as the float does (the negative ones turned round); with the column below
    them every key is another, and a plain partition of integers is stable.
    """
    falling = np.where(np.isnan(logits_BS), np.float32(np.nan), 0.0 - logits_BS).astype(np.float32)
    bits = falling.view(np.int32)
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    keys = np.where(inside_BS, (ordered << 32) | np.arange(logits_BS.shape[1]), _NO_TOKEN)
    num_kept = min(num_best, keys.shape[1])
    kept = np.sort(np.partition(keys, num_kept - 1, axis=1)[:, :num_kept], axis=1)
    return np.where(kept == _NO_TOKEN, -1, kept & 0xFFFFFFFF)
