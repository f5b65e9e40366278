from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from pipeline.tasks.numbers import (
    calibration_error,
    f1_scores,
    matrix,
    matthews,
    pearson,
    score_lists,
    sigmoid,
    softmax,
    spearman,
)


def test_softmax_survives_extreme_logits() -> None:
    scores = softmax(np.array([[1e30, -1e30, 0.0], [-1e4, -1e4, -1e4]], np.float32))
    np.testing.assert_allclose(scores, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_softmax_and_sigmoid_agree_with_scipy() -> None:
    logits = np.random.default_rng(0).normal(scale=20, size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), scipy.special.softmax(logits.astype(np.float64), axis=1), atol=1e-6)
    np.testing.assert_allclose(sigmoid(logits), scipy.special.expit(logits.astype(np.float64)), atol=1e-6)
    assert softmax(logits).dtype == sigmoid(logits).dtype == np.float32


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise"):
        scores = sigmoid(np.array([-1e30, -200, 0, 200, 1e30], np.float32))
    assert scores.tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("num_values", [2, 3, 100])
@pytest.mark.parametrize("with_ties", [False, True])
def test_correlations_agree_with_scipy(num_values: int, with_ties: bool) -> None:
    draw = np.random.default_rng(num_values)
    left = draw.normal(size=num_values)
    right = 0.5 * left + draw.normal(size=num_values)
    if with_ties and num_values > 3:
        left, right = np.round(left), np.round(right * 2)
    assert pearson(left, right) == pytest.approx(scipy.stats.pearsonr(left, right).statistic)
    assert spearman(left, right) == pytest.approx(scipy.stats.spearmanr(left, right).statistic)


def test_what_does_not_vary_correlates_with_nothing() -> None:
    flat, slope = np.full(5, 0.25), np.arange(5.0)
    assert (pearson(flat, slope), spearman(slope, flat), pearson(flat, flat)) == (0, 0, 0)
    tenths = np.full(3, 0.1)  # whose mean is not 0.1
    assert (pearson(tenths, tenths), pearson(tenths, np.arange(3.0))) == (0, 0)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_matthews_agrees_with_scikit_learn(num_classes: int) -> None:
    draw = np.random.default_rng(num_classes)
    truth = draw.integers(0, num_classes, 200)
    predicted = np.where(draw.random(200) < 0.4, truth, draw.integers(0, num_classes, 200))
    counts = confusion_matrix(truth, predicted, labels=range(num_classes))
    assert matthews(counts) == pytest.approx(matthews_corrcoef(truth, predicted))
    assert matthews(np.diag([3, 4])) == 1
    assert matthews(np.array([[3, 0], [4, 0]])) == 0


def test_f1_agrees_with_scikit_learn_class_by_class() -> None:
    draw = np.random.default_rng(3)
    truth, predicted = draw.integers(0, 4, 60), draw.integers(0, 5, 60)
    counts = confusion_matrix(truth, predicted, labels=range(6))
    expected = f1_score(truth, predicted, labels=range(6), average=None, zero_division=0)
    np.testing.assert_allclose(f1_scores(np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)), expected)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_calibration_error_agrees_with_a_plain_loop(num_bins: int) -> None:
    draw = np.random.default_rng(num_bins)
    confidence = draw.random(300).astype(np.float32)
    is_right = draw.random(300) < confidence**2
    expected = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        inside = [row for row in range(300) if low <= confidence[row] < high]
        if inside:
            gap = np.mean([is_right[row] for row in inside]) - np.mean([float(confidence[row]) for row in inside])
            expected += len(inside) / 300 * abs(gap)
    assert calibration_error(confidence, is_right, num_bins) == pytest.approx(expected)


def test_calibration_of_certainties_and_of_nothing() -> None:
    assert calibration_error(np.ones(4, np.float32), np.array([True, True, True, False])) == pytest.approx(0.25)
    assert calibration_error(np.zeros(0, np.float32), np.zeros(0, np.bool_)) == 0


@pytest.mark.parametrize("shape", [(3, 2), (1, 4), (5, 0), (0, 0)])
def test_score_lists_come_back_as_they_went(shape: tuple[int, int]) -> None:
    scores = np.random.default_rng(0).random(shape).astype(np.float32)
    lists = score_lists(scores)
    assert lists.to_pylist() == scores.tolist()
    np.testing.assert_array_equal(matrix(pa.chunked_array([lists.slice(0, 1), lists.slice(1)])), scores)
