from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest
import scipy.special
import scipy.stats
import torch

from pipeline.tasks.base import Learned
from pipeline.tasks.similarity import AS_IT_IS, Similarity
from tests.unit.tasks.parts import column, outputs_of, rows_without_text

TASK = Similarity()
RANGE = Learned((), {"low": 1.0, "high": 5.0})


def test_the_range_is_that_of_the_finite_labels() -> None:
    targets = column([2.5, None, float("nan"), 0.5, float("inf"), 4])
    assert TASK.learn(targets) == Learned((), {"low": 0.5, "high": 4.0})
    assert TASK.learn(column([3, 1, 5], pa.int8())) == RANGE
    assert TASK.learn(column([None], pa.float32())).options == {"low": 0.0, "high": 0.0}


def test_predictions_are_stretched_over_the_range() -> None:
    (scores,) = TASK.decode(outputs_of([[-100], [0], [100], [0.7]]), rows_without_text(4), RANGE)
    assert scores.type == TASK.output_fields()[0].type
    np.testing.assert_allclose(scores.to_pylist(), [1, 3, 5, 1 + 4 * scipy.special.expit(0.7)], rtol=1e-6)


def test_a_head_without_a_sigmoid_gives_its_logits() -> None:
    learned = Learned((), {"low": 0.0, "high": 1.0, **AS_IT_IS})
    logits = [[-3.5], [0.0], [4.75]]
    (scores,) = TASK.decode(outputs_of(logits), rows_without_text(3), learned)
    judged = TASK.judge([outputs_of(logits)], rows_without_text(3), column([0.0, 1.0, 5.0]), learned)
    assert scores.to_pylist() == judged["predicted"].to_pylist() == [-3.5, 0.0, 4.75]


def test_targets_are_scaled_to_one_and_given_to_every_window() -> None:
    numbers = TASK.window_targets(column([1.0, 2.0, 5.0]), rows_without_text(3, [0, 1, 1, 2]), RANGE)
    assert numbers.values.tolist() == [0, 0.25, 0.25, 1]
    flat = Learned((), {"low": 2.0, "high": 2.0})
    assert TASK.window_targets(column([2.0, 2.0]), rows_without_text(2), flat).values.tolist() == [0, 0]


def test_the_best_constant_logit_is_the_mean_label() -> None:
    """Binary cross-entropy with fractions: its gradient vanishes where the sigmoid is the target."""
    logits = torch.tensor([[0.0], [1.0]], requires_grad=True)
    TASK.loss_sum(logits, torch.sigmoid(logits.detach())).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(2, 1))


def test_scores_that_are_not_finite_numbers_are_refused() -> None:
    reasons = TASK.check(column([1.0, None, float("nan"), float("-inf")]), (), RANGE).to_pylist()
    assert reasons == [None] + ["score is null or not finite"] * 3


@pytest.mark.parametrize("seed", [0, 1])
def test_correlations_are_scipys(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = np.round(draw.random(80) * 4 + 1, seed)
    logits = (truth - 3 + draw.normal(size=80))[:, None]
    judged = TASK.judge([outputs_of(logits)], rows_without_text(80), column(truth), RANGE)
    result = TASK.evaluate(judged, RANGE)
    predicted = 1 + 4 * scipy.special.expit(logits.astype(np.float32).astype(np.float64)[:, 0])
    assert result.metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, predicted).statistic, rel=1e-5)
    assert result.metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, predicted).statistic, rel=1e-5)
    assert (result.num_rows, TASK.tune(judged, RANGE)) == (80, RANGE)


def test_no_rows_give_no_figures_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged = TASK.judge([outputs_of(np.zeros((0, 1)))], rows_without_text(0), column([], pa.float64()), RANGE)
        assert TASK.evaluate(judged, RANGE).metrics == {}
