from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from pipeline.tasks.base import Learned
from pipeline.tasks.multi_label import MultiLabel
from pipeline.tasks.numbers import sigmoid
from tests.unit.tasks.parts import column, outputs_of, rows_without_text

TASK = MultiLabel()
LABELS = ("action", "drama", "war", "zen")
LEARNED = Learned(LABELS)
STRINGS = pa.list_(pa.string())


def random_case(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and truth [R, 4]; `zen` is never true."""
    draw = np.random.default_rng(seed)
    truth = draw.random((num_rows, 4)) < [0.5, 0.2, 0.1, 0]
    return (draw.normal(size=(num_rows, 4)) + 1.5 * truth - 0.5).astype(np.float32), truth


def names(truth: np.ndarray) -> pa.ChunkedArray:
    return column([[LABELS[index] for index in np.flatnonzero(row)] for row in truth], STRINGS)


def judge(logits: np.ndarray, truth: np.ndarray) -> pa.Table:
    return TASK.judge([outputs_of(logits)], rows_without_text(len(truth)), names(truth), LEARNED)


@pytest.mark.parametrize(("num_rows", "seed"), [(1, 0), (20, 1), (300, 2)])
def test_metrics_agree_with_scikit_learn(num_rows: int, seed: int) -> None:
    logits, truth = random_case(num_rows, seed)
    predicted = sigmoid(logits) >= 0.5
    result = TASK.evaluate(judge(logits, truth), LEARNED)
    expected = {
        "micro_f1": f1_score(truth, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, predicted, average="macro", zero_division=0),
        "exact_match": accuracy_score(truth, predicted),
    }
    assert result.metrics == pytest.approx(expected)
    assert result.num_rows == num_rows


def f1_at(threshold: float, truth: np.ndarray, scores: np.ndarray) -> float:
    return float(f1_score(truth, scores >= np.float32(threshold), zero_division=0))


@pytest.mark.parametrize("seed", range(6))
def test_tuned_thresholds_are_as_good_as_any(seed: int) -> None:
    logits, truth = random_case(25, seed)
    logits = np.round(logits) if seed % 2 else logits  # equal scores
    judged = judge(logits, truth)
    tuned = TASK.tune(judged, LEARNED)
    scores = sigmoid(logits)
    for index, label in enumerate(LABELS):
        best = max(f1_at(threshold, truth[:, index], scores[:, index]) for threshold in scores[:, index])
        threshold = tuned.options[f"threshold.{label}"]
        assert 0 < threshold < 1
        assert f1_at(threshold, truth[:, index], scores[:, index]) == pytest.approx(
            best if truth[:, index].any() else 0
        )
    assert tuned.options["threshold.zen"] == 0.5
    assert TASK.evaluate(judged, tuned).metrics["macro_f1"] >= TASK.evaluate(judged, LEARNED).metrics["macro_f1"]


def test_tuned_thresholds_decide_what_is_decoded() -> None:
    logits = np.array([[0, 0, 0, 0], [2, -2, 2, -2]])
    tuned = Learned(LABELS, {"threshold.action": 0.9, "threshold.drama": 0.1})
    labels, scores = TASK.decode(outputs_of(logits), rows_without_text(2), tuned)
    assert labels.to_pylist() == [["drama", "war", "zen"], ["drama", "war"]]
    np.testing.assert_allclose(scores.to_pylist(), sigmoid(logits.astype(np.float32)), rtol=1e-6)
    default, _ = TASK.decode(outputs_of(logits), rows_without_text(2), LEARNED)
    assert default.to_pylist() == [list(LABELS), ["action", "war"]]


def test_decoded_columns_are_those_announced() -> None:
    for num_rows in (0, 3):
        logits = np.full((num_rows, 4 if num_rows else 0), -9)
        arrays = TASK.decode(outputs_of(logits), rows_without_text(num_rows), LEARNED)
        assert [array.type for array in arrays] == [field.type for field in TASK.output_fields()]
        assert arrays[0].to_pylist() == [[]] * num_rows


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (pa.array([["b"], ["a", None, "b"], None, []], STRINGS), ("a", "b")),
        (pa.array([[10, 2], [2]]), ("2", "10")),
        (pa.array([[1.0], [0.5]]), ("0.5", "1")),
        (pa.array([[True], [False]]), ("false", "true")),
    ],
)
def test_labels_are_found_in_order_and_encoded(targets: pa.Array, labels: tuple[str, ...]) -> None:
    learned = TASK.learn(column(targets))
    assert learned == Learned(labels)
    numbers = TASK.window_targets(column(targets), rows_without_text(len(targets)), learned)
    hot = numbers.values.reshape(len(targets), len(labels))
    flat = sum(value is not None for row in targets.to_pylist() if row is not None for value in row)
    assert hot.sum() == flat
    assert numbers.weights.tolist() == [1] * len(targets)


def test_every_window_has_the_rows_labels() -> None:
    targets = column([["war"], [], ["zen", "action"]], STRINGS)
    numbers = TASK.window_targets(targets, rows_without_text(3, [0, 1, 1, 2]), LEARNED)
    assert numbers.values.reshape(4, 4).tolist() == [[0, 0, 1, 0], [0] * 4, [0] * 4, [1, 0, 0, 1]]


@pytest.mark.parametrize("value", ["a", {"a": True, "b": False}, 1])
def test_what_is_no_list_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected lists: the names of a row's labels"):
        TASK.learn(column([value, value]))


def test_lists_that_cannot_be_used_are_told_apart() -> None:
    targets = column([["war"], None, [], ["war", "x", "b"], ["war", None]], STRINGS)
    reasons = TASK.check(targets, (), LEARNED).to_pylist()
    assert reasons == [None, "labels are null", None, "label is unknown: x", "a label is null"]
    assert TASK.check(column([[1.0, 2.5]]), (), Learned(("1", "2.5"))).to_pylist() == [None]


def test_the_loss_is_averaged_over_labels_and_summed_over_rows() -> None:
    logits, truth = random_case(8, 3)
    loss = TASK.loss_sum(torch.from_numpy(logits), torch.from_numpy(truth.astype(np.float32)))
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert loss.item() == pytest.approx(8 * log_loss(truth.ravel(), scores.ravel()), rel=1e-5)


def test_no_rows_give_no_figures_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = judge(np.zeros((0, 4)), np.zeros((0, 4)))
        assert TASK.tune(nothing, LEARNED) == LEARNED
        assert TASK.evaluate(nothing, LEARNED).metrics == {}


@pytest.mark.parametrize(
    ("lists", "is_refused"),
    [
        ([[0, 1, 0], [1, 1, 0]], True),
        ([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], True),
        ([[True, True], [False, True]], True),
        ([[0, 1], [1, 0]], False),  # the labels 0 and 1
        ([[0, 1], [1]], False),
        ([[1, 2, 3], [0, 1, 2]], False),
        ([["0", "1", "0"]], False),
    ],
)
def test_multi_hot_lists_name_no_labels(lists: list[Any], is_refused: bool) -> None:
    targets = pa.chunked_array([pa.array(lists)])
    if is_refused:
        with pytest.raises(TypeError, match=r"a 0 or a 1 for each label \(multi-hot\); expected the names"):
            TASK.learn(targets)
    else:
        assert TASK.learn(targets).labels
