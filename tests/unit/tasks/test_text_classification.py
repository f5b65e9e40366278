from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from pipeline.errors import SpecError
from pipeline.tasks import find_task
from pipeline.tasks.text_classification import IGNORED, TextClassification, softmax

TASK = TextClassification()


def random_logits(num_rows: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(num_rows, num_classes)).astype(np.float32)
    return logits, draw.integers(0, num_classes, num_rows)


@pytest.mark.parametrize(("num_rows", "num_classes", "seed"), [(1, 2, 0), (7, 3, 1), (500, 4, 2), (40, 25, 3)])
def test_metrics_agree_with_scikit_learn(num_rows: int, num_classes: int, seed: int) -> None:
    logits, targets = random_logits(num_rows, num_classes, seed)
    labels = tuple(f"class {index}" for index in range(num_classes))
    result = TASK.evaluate(logits, targets, labels)
    predicted, every = logits.argmax(axis=1), np.arange(num_classes)
    seen = np.union1d(targets, predicted)  # scikit-learn would count a class that is in neither as 0
    expected = {
        "accuracy": accuracy_score(targets, predicted),
        "macro_f1": f1_score(targets, predicted, labels=seen, average="macro", zero_division=0),
        "weighted_f1": f1_score(targets, predicted, labels=every, average="weighted", zero_division=0),
        "loss": log_loss(targets, torch.softmax(torch.from_numpy(logits).double(), 1).numpy(), labels=every),
    }
    assert result.metrics == pytest.approx(expected, rel=1e-5)
    assert result.num_rows == num_rows
    assert result.confusion is not None
    assert result.confusion.labels == labels
    np.testing.assert_array_equal(result.confusion.counts, confusion_matrix(targets, predicted, labels=every))


def test_rows_without_a_target_do_not_count() -> None:
    logits, targets = random_logits(60, 3, seed=4)
    with_gaps = np.where(np.arange(60) % 4 == 0, IGNORED, targets)
    kept = with_gaps != IGNORED
    assert TASK.evaluate(logits, with_gaps, "abc").metrics == TASK.evaluate(logits[kept], targets[kept], "abc").metrics
    assert TASK.evaluate(logits, with_gaps, "abc").num_rows == kept.sum()


def test_no_rows_give_zeros_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = TASK.evaluate(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))
    assert set(result.metrics.values()) == {0.0}
    assert result.num_rows == 0


def test_decoding_is_softmax_and_its_best_class() -> None:
    logits, _ = random_logits(50, 3, seed=5)
    labels, scores, class_scores = TASK.decode(logits, ("a", "b", "c"))
    expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    np.testing.assert_allclose(np.array(class_scores.to_pylist()), expected, atol=1e-6)
    np.testing.assert_allclose(scores.to_numpy(), expected.max(axis=1), atol=1e-6)
    assert labels.to_pylist() == ["abc"[index] for index in expected.argmax(axis=1)]


def test_decoded_columns_are_those_announced() -> None:
    for num_rows in (0, 2):
        arrays = TASK.decode(np.zeros((num_rows, 2 if num_rows else 0), np.float32), ("a", "b"))
        assert [array.type for array in arrays] == [field.type for field in TASK.output_fields()]
        assert [len(array) for array in arrays] == [num_rows] * 3


def test_softmax_survives_extreme_logits() -> None:
    scores = softmax(np.array([[1e30, -1e30, 0.0], [-1e4, -1e4, -1e4]], np.float32))
    np.testing.assert_allclose(scores, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("targets", "labels", "encoded"),
    [
        (pa.array(["b", "a", None, "b"]), ("a", "b"), [1, 0, IGNORED, 1]),
        (pa.array([10, 2, None]), ("2", "10"), [1, 0, IGNORED]),
        (pa.array([-1, 1], pa.int8()), ("-1", "1"), [0, 1]),
        (pa.array(["b", "a"]).dictionary_encode(), ("a", "b"), [1, 0]),
    ],
)
def test_labels_are_found_in_order_and_encoded(targets: pa.Array, labels: tuple[str, ...], encoded: list[int]) -> None:
    column = pa.chunked_array([targets.slice(0, 1), targets.slice(1)])
    assert TASK.find_labels(column) == labels
    assert TASK.encode_targets(column, labels).tolist() == encoded


def test_an_unknown_label_is_ignored_and_integers_match_their_text() -> None:
    assert TASK.encode_targets(pa.chunked_array([["a", "z"]]), ("a", "b")).tolist() == [0, IGNORED]
    assert TASK.encode_targets(pa.chunked_array([["10", "2"]]), ("2", "10")).tolist() == [1, 0]
    assert TASK.encode_targets(pa.chunked_array([], pa.string()), ("a",)).tolist() == []


def test_the_loss_is_a_sum_over_rows_with_a_target() -> None:
    logits, targets = random_logits(20, 3, seed=6)
    targets[::5] = IGNORED
    valid = targets != IGNORED
    loss = TASK.loss_sum(torch.from_numpy(logits).bfloat16(), torch.from_numpy(targets))
    exact = -np.log(softmax(logits)[valid, targets[valid]]).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-2)
    assert TASK.loss_sum(torch.from_numpy(logits), torch.full((20,), IGNORED)).item() == 0


def test_tasks_are_found_by_name() -> None:
    assert find_task("text-classification", "spec.yaml").name == "text-classification"
    with pytest.raises(SpecError, match=r"(?s)spec\.yaml.*task: 'sumarise' is unknown; expected one of: text-class"):
        find_task("sumarise", "spec.yaml")
