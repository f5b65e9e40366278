"""Arithmetic that several tasks share. Pure functions of numpy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import SCORES_TYPE, holds_vectors
from pipeline.tasks.base import WindowTargets

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def lead(logits: FloatArray) -> FloatArray:
    """By how much the highest is above the next one, over the last axis; infinite where there is no next one."""
    if logits.shape[-1] < 2:
        return np.full(logits.shape[:-1], np.inf, np.float32)
    highest = np.partition(logits, -2, axis=-1)[..., -2:]
    return np.asarray(highest[..., 1] - highest[..., 0], np.float32)


def sigmoid(logits: FloatArray) -> FloatArray:
    """Logistic function, float32, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def score_lists(scores: FloatArray) -> pa.Array:
    """[R, C] as list<float32> [R]."""
    offsets = np.arange(len(scores) + 1, dtype=np.int32) * (scores.shape[1] if scores.ndim > 1 else 0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(scores.reshape(-1), pa.float32())).cast(SCORES_TYPE)


def matrix(column: pa.ChunkedArray) -> FloatArray:
    """A list<float> column whose lists are equally long, as [R, C]."""
    flat = column.combine_chunks()
    values = np.concatenate([chunk.flatten().to_numpy() for chunk in _chunks(flat)])
    return np.asarray(values.reshape(len(column), -1) if len(column) else np.zeros((0, 0)), np.float32)


def vectors_of(column: pa.ChunkedArray, width: int = 0) -> FloatArray:
    """[R, width] from lists of numbers; NaN where a list is null, holds a null, or is of another length.

    Raises:
        TypeError: the column holds something else.
    """
    if not holds_vectors(column.type):
        raise TypeError("lists of numbers are expected")
    vectors = np.full((len(column), width), np.nan, np.float32)
    fits = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(column), width), False).to_numpy(), np.bool_)
    kept = pc.list_flatten(column.filter(pa.array(fits))).cast(pa.float32())
    vectors[fits] = np.asarray(pc.fill_null(kept, float("nan")).to_numpy()).reshape(int(fits.sum()), width)
    return vectors


def unit_vectors(vectors: FloatArray) -> FloatArray:
    """[R, D], each row scaled to length 1; a row of zeros stays one."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def fixed_targets(values: npt.NDArray[np.float32]) -> WindowTargets:
    """[W, K] as targets of weight 1 each."""
    num_windows, width = values.shape
    offsets = np.arange(num_windows + 1, dtype=np.int64) * width
    return WindowTargets(values.reshape(-1).astype(np.float32), offsets, np.ones(num_windows, np.int64))


def f1_scores(hits: IntArray, support: IntArray, predicted: IntArray) -> npt.NDArray[np.float64]:
    """F1 of each class from its counts; 0 where there is neither truth nor prediction."""
    return np.asarray(2 * hits / np.maximum(support + predicted, 1), np.float64)


def matthews(counts: IntArray) -> float:
    """Matthews correlation coefficient of a confusion matrix [true, predicted] (Gorodkin's multi-class form)."""
    counts = counts.astype(np.float64)
    total, hits = counts.sum(), np.trace(counts)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    covariance = hits * total - truth @ predicted
    scale = np.sqrt((total**2 - predicted @ predicted) * (total**2 - truth @ truth))
    return float(covariance / scale) if scale > 0 else 0.0


def calibration_error(confidence: FloatArray, is_right: npt.NDArray[np.bool_], num_bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| over equal-width bins, weighted by their rows."""
    if not len(confidence):
        return 0.0
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=is_right - confidence.astype(np.float64), minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def pearson(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Pearson's r; 0 where either side does not vary."""
    if not len(left) or left.min() == left.max() or right.min() == right.max():  # means round: 0.1 three times varies
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / scale if scale > 0 else 0.0


def spearman(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Spearman's rho: Pearson's r of ranks, ties at their mean rank."""
    return pearson(_ranks(left), _ranks(right))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    return np.asarray((last - (counts - 1) / 2)[group])


def _chunks(array: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(array.chunks) if isinstance(array, pa.ChunkedArray) else [array]
