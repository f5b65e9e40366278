"""What one model's heads say about some rows, put together from batches.

Shape letters: B windows of a batch, W windows, R rows, T tokens of all windows, C outputs of a head, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.encoder.pooling import merge_windows
from pipeline.encoder.tokenize import TokenRows, flat_positions
from pipeline.encoder.transfer import HostCopies

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How token states become a row's embedding."""

    pooling: str
    normalize: bool


@dataclass(frozen=True)
class ModelOutputs:
    """What one model says about some rows, in the rows' own order. R rows, T tokens of all windows, C outputs.

    Attributes:
        logits: float32; [R, C] from a head over rows (the mean over a row's windows), [T, C] from one over tokens,
            [R, 0] from a model without a head.
        embeddings: float32 [R, hidden]; [R, 0] where none were asked for.
        finite: bool [R]; False where logits or embedding hold NaN or infinity even in fp32.
        num_padded_tokens: Tokens computed, padding included.
    """

    logits: FloatArray
    embeddings: FloatArray
    finite: npt.NDArray[np.bool_]
    num_padded_tokens: int

    def put(self, rows: IntArray, others: ModelOutputs, tokens: TokenRows) -> None:
        """Let others stand, in place, for some rows, ascending, of these tokens; what was computed stays counted."""
        places = rows
        if len(self.logits) != tokens.num_rows:  # a head over tokens
            places = flat_positions(tokens, np.flatnonzero(np.isin(tokens.window_rows, rows)))
        self.logits[places], self.embeddings[rows], self.finite[rows] = others.logits, others.embeddings, others.finite


@dataclass(frozen=True)
class BegunBatch:
    """A batch whose outputs are on their way to the host.

    Attributes:
        indices: Its windows [B].
        num_padded_tokens: Computed, padding included.
        over_tokens: Names of the logits that are of tokens.
        copies: Logits by the head's number, [B, C] or [T, C] of the batch's tokens; pooled states [B, H] by pooling.
    """

    indices: IntArray
    num_padded_tokens: int
    over_tokens: frozenset[str]
    copies: HostCopies


class GatheredOutputs:
    """One head's outputs of all windows, put in their places as batches come.

    Args:
        rows: The windows.
        number: The head's.
        embedding: How its embeddings are pooled, and whether they are scaled; None where it has none.
    """

    def __init__(self, rows: TokenRows, number: int, embedding: EmbeddingOptions | None) -> None:
        self._rows, self._name, self._embedding = rows, str(number), embedding
        self._is_empty, self._is_over_tokens = True, False
        self._logits: FloatArray = np.zeros((len(rows), 0), np.float32)
        self._pooled: FloatArray = np.zeros((len(rows), 0), np.float32)

    def add(self, batch: BegunBatch, found: Mapping[str, FloatArray]) -> None:
        """Take this head's part of what a batch gave; there may be no logits, or no embeddings."""
        nothing = np.zeros((len(batch.indices), 0), np.float32)
        logits = found.get(self._name, nothing)
        pooled = nothing if self._embedding is None else found[self._embedding.pooling]
        if self._is_empty:
            self._is_empty, self._is_over_tokens = False, self._name in batch.over_tokens
            places = len(self._rows.ids) if self._is_over_tokens else len(self._rows)
            self._logits = np.zeros((places, logits.shape[-1]), np.float32)
            self._pooled = np.zeros((len(self._rows), pooled.shape[1]), np.float32)
        self._pooled[batch.indices] = pooled
        self._logits[flat_positions(self._rows, batch.indices) if self._is_over_tokens else batch.indices] = logits

    def finite_windows(self) -> npt.NDArray[np.bool_]:
        """Whether all of a window is finite: bool [W]."""
        finite = np.asarray(np.isfinite(self._pooled).all(axis=1))
        good = np.asarray(np.isfinite(self._logits).all(axis=1))
        if self._is_over_tokens:
            windows = np.repeat(np.arange(len(self._rows)), self._rows.lengths)
            finite[windows[~good]] = False
            return finite
        return np.asarray(finite & good)

    def conclude(self, num_padded_tokens: int) -> ModelOutputs:
        """Windows -> rows."""
        rows, logits, embedding = self._rows, self._logits, self._embedding
        embeddings = np.zeros((rows.num_rows, 0), np.float32)
        if embedding is not None:
            embeddings = merge_windows(self._pooled, rows, embedding.pooling, embedding.normalize)
        if not self._is_over_tokens:
            logits = merge_windows(logits, rows, "cls", normalize=False)
        finite = np.ones(rows.num_rows, np.bool_)
        finite[rows.window_rows[~self.finite_windows()]] = False
        return ModelOutputs(logits, embeddings, finite, num_padded_tokens)
