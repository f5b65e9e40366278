from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef

from pipeline.errors import SpecError
from pipeline.tasks import TASKS, find_task
from pipeline.tasks.base import IGNORED, Evaluation, Learned
from pipeline.tasks.numbers import calibration_error, softmax
from pipeline.tasks.text_classification import TextClassification, encode_labels
from tests.unit.tasks.parts import column, outputs_of, rows_without_text

TASK = TextClassification()
ABC = Learned(("a", "b", "c"))


def random_logits(num_rows: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(num_rows, num_classes)).astype(np.float32)
    return logits, draw.integers(0, num_classes, num_rows)


def judged(logits: np.ndarray, names: list[str | None], learned: Learned) -> Evaluation:
    """Through `judge` and `evaluate`, as validation does it."""
    targets = column(names, pa.string())
    return TASK.evaluate(TASK.judge([outputs_of(logits)], rows_without_text(len(names)), targets, learned), learned)


@pytest.mark.parametrize(("num_rows", "num_classes", "seed"), [(1, 2, 0), (7, 3, 1), (500, 4, 2), (40, 25, 3)])
def test_metrics_agree_with_scikit_learn(num_rows: int, num_classes: int, seed: int) -> None:
    logits, targets = random_logits(num_rows, num_classes, seed)
    labels = tuple(f"class {index}" for index in range(num_classes))
    result = judged(logits, [labels[target] for target in targets], Learned(labels))
    predicted, every = logits.argmax(axis=1), np.arange(num_classes)
    seen = np.union1d(targets, predicted)  # scikit-learn would count a class that is in neither as 0
    scores = softmax(logits)
    expected = {
        "accuracy": accuracy_score(targets, predicted),
        "macro_f1": f1_score(targets, predicted, labels=seen, average="macro", zero_division=0),
        "weighted_f1": f1_score(targets, predicted, labels=every, average="weighted", zero_division=0),
        "mcc": matthews_corrcoef(targets, predicted),
        "ece": calibration_error(scores.max(axis=1), predicted == targets),
        "loss": log_loss(targets, torch.softmax(torch.from_numpy(logits).double(), 1).numpy(), labels=every),
    }
    assert result.metrics == pytest.approx(expected, rel=1e-5)
    assert result.num_rows == num_rows
    assert result.confusion is not None
    assert result.confusion.labels == labels
    np.testing.assert_array_equal(result.confusion.counts, confusion_matrix(targets, predicted, labels=every))


def test_rows_without_a_target_do_not_count() -> None:
    logits, targets = random_logits(60, 3, seed=4)
    names = ["abc"[target] for target in targets]
    kept = np.arange(60) % 4 != 0
    with_gaps = judged(logits, [name if keep else None for name, keep in zip(names, kept, strict=True)], ABC)
    without = judged(logits[kept], [name for name, keep in zip(names, kept, strict=True) if keep], ABC)
    assert with_gaps.metrics == without.metrics
    assert with_gaps.num_rows == kept.sum()


def test_no_rows_give_no_figures_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = judged(np.zeros((0, 3), np.float32), [], ABC)
    assert (result.num_rows, result.metrics, result.confusion) == (0, {}, None)


def test_the_loss_of_a_certain_model_is_no_negative_zero() -> None:
    metrics = judged(np.array([[60, 0, 0]], np.float32), ["a"], ABC).metrics
    assert f"{metrics['loss']:.4f}" == "0.0000"


def test_decoding_is_softmax_and_its_best_class() -> None:
    logits, _ = random_logits(50, 3, seed=5)
    labels, scores, class_scores = TASK.decode(outputs_of(logits), rows_without_text(50), ABC)
    expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    np.testing.assert_allclose(np.array(class_scores.to_pylist()), expected, atol=1e-6)
    np.testing.assert_allclose(scores.to_numpy(), expected.max(axis=1), atol=1e-6)
    assert labels.to_pylist() == ["abc"[index] for index in expected.argmax(axis=1)]


def test_decoded_columns_are_those_announced() -> None:
    for num_rows in (0, 2):
        logits = np.zeros((num_rows, 2 if num_rows else 0))
        arrays = TASK.decode(outputs_of(logits), rows_without_text(num_rows), Learned(("a", "b")))
        assert [array.type for array in arrays] == [field.type for field in TASK.output_fields()]
        assert [len(array) for array in arrays] == [num_rows] * 3


@pytest.mark.parametrize(
    ("targets", "labels", "encoded"),
    [
        (pa.array(["b", "a", None, "b"]), ("a", "b"), [1, 0, IGNORED, 1]),
        (pa.array([10, 2, None]), ("2", "10"), [1, 0, IGNORED]),
        (pa.array([-1, 1], pa.int8()), ("-1", "1"), [0, 1]),
        (pa.array(["b", "a"]).dictionary_encode(), ("a", "b"), [1, 0]),
        (pa.array([10, None, 2]).dictionary_encode(), ("2", "10"), [1, IGNORED, 0]),
        (pa.array([10.0, 2.5, None, 2.5]), ("2.5", "10"), [1, 0, IGNORED, 0]),
        (pa.array([1.0, 0.0, None], pa.float32()), ("0", "1"), [1, 0, IGNORED]),
        (pa.array([True, None, False]), ("false", "true"), [1, IGNORED, 0]),
    ],
)
def test_labels_are_found_in_order_and_encoded(targets: pa.Array, labels: tuple[str, ...], encoded: list[int]) -> None:
    values = column(targets)
    learned = TASK.learn(values)
    assert learned == Learned(labels)
    assert encode_labels(values, labels).tolist() == encoded
    assert [reason is None for reason in TASK.check(values, (), learned).to_pylist()] == [
        number != IGNORED for number in encoded
    ]


def test_an_unknown_label_is_refused_and_integers_match_their_text() -> None:
    assert encode_labels(column(["a", "z"]), ("a", "b")).tolist() == [0, IGNORED]
    assert encode_labels(column(["10", "2"]), ("2", "10")).tolist() == [1, 0]
    assert encode_labels(pa.chunked_array([], pa.string()), ("a",)).tolist() == []
    reasons = TASK.check(column(["a", "z", None]), (), ABC).to_pylist()
    assert reasons == [None, "label is unknown", "label is null"]


def test_every_window_of_a_row_gets_its_label() -> None:
    targets = TASK.window_targets(column(["b", "a"]), rows_without_text(2, [0, 0, 0, 1]), ABC)
    assert targets.values.tolist() == [1, 1, 1, 0]
    assert (targets.offsets.tolist(), targets.weights.tolist()) == ([0, 1, 2, 3, 4], [1, 1, 1, 1])


SOFT = pa.struct([("no", pa.float64()), ("yes", pa.float64()), ("maybe", pa.float64())])


def soft(*rows: tuple[Any, ...]) -> pa.ChunkedArray:
    return column([dict(zip(("no", "yes", "maybe"), row, strict=True)) for row in rows], SOFT)


def test_soft_labels_keep_the_structs_order_and_are_scaled_to_one() -> None:
    targets = soft((0.5, 0.25, 0.25), (0, 3, 1))
    learned = TASK.learn(targets)
    assert learned.labels == ("no", "yes", "maybe")
    numbers = TASK.window_targets(targets, rows_without_text(2), learned)
    assert numbers.values.tolist() == [0.5, 0.25, 0.25, 0, 0.75, 0.25]
    assert (numbers.offsets.tolist(), numbers.weights.tolist()) == ([0, 3, 6], [1, 1])


def test_soft_labels_that_are_no_distribution_are_refused() -> None:
    targets = soft((0.5, 0.5, 0), (0, 0, 0), (1.5, -0.5, 0), (1, None, 0), (1, float("inf"), 0), (1, float("nan"), 0))
    reasons = TASK.check(targets, (), TASK.learn(targets)).to_pylist()
    assert reasons == [None] + ["soft label is not a distribution"] * 5
    absent = pa.chunked_array([pa.array([None, {"no": 1, "yes": 0, "maybe": 0}], SOFT)])
    assert [reason is None for reason in TASK.check(absent, (), TASK.learn(absent)).to_pylist()] == [False, True]


def test_the_soft_loss_is_the_cross_entropy_of_distributions() -> None:
    logits, _ = random_logits(9, 3, seed=8)
    shares = np.random.default_rng(9).dirichlet(np.ones(3), 9).astype(np.float32)
    loss = TASK.loss_sum(torch.from_numpy(logits), torch.from_numpy(shares))
    assert loss.item() == pytest.approx(-(shares * np.log(softmax(logits))).sum(), rel=1e-5)


def test_soft_truth_is_judged_by_its_likeliest_label() -> None:
    targets = soft((0.2, 0.5, 0.3), (0.6, 0.4, 0.0))
    table = TASK.judge([outputs_of(np.eye(3)[:2])], rows_without_text(2), targets, TASK.learn(targets))
    assert table["truth"].to_pylist() == [1, 0]


def test_the_loss_is_a_sum_over_rows_with_a_target() -> None:
    logits, targets = random_logits(20, 3, seed=6)
    marks = targets[:, None].astype(np.float32)
    marks[::5] = IGNORED
    valid = marks[:, 0] != IGNORED
    loss = TASK.loss_sum(torch.from_numpy(logits).bfloat16(), torch.from_numpy(marks))
    exact = -np.log(softmax(logits)[valid, targets[valid]]).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-2)
    assert TASK.loss_sum(torch.from_numpy(logits), torch.full((20, 1), IGNORED)).item() == 0


def test_tasks_are_found_by_name() -> None:
    assert find_task("text-classification", "spec.yaml").name == "text-classification"
    assert all(find_task(name, "spec.yaml").name == name for name in TASKS)
    assert len(TASKS) == 10
    with pytest.raises(SpecError, match=r"(?s)spec\.yaml.*task: 'sumarise' is unknown; expected one of: .*text-class"):
        find_task("sumarise", "spec.yaml")


def test_a_pair_is_one_input_of_two_texts_judged_as_a_class() -> None:
    pair = TASKS["pair-classification"]
    assert (pair.inputs, pair.labelled_inputs) == (("text_a", "text_b"), (("text_a", "text_b"),))
    logits, targets = random_logits(30, 3, seed=7)
    names = column(["abc"[target] for target in targets])
    table = pair.judge([outputs_of(logits)], rows_without_text(30), names, ABC)
    figures = pair.evaluate(table, ABC).metrics
    assert figures == judged(logits, names.to_pylist(), ABC).metrics
    assert figures[pair.main_metric] == pytest.approx(accuracy_score(targets, logits.argmax(axis=1)))


def test_a_number_that_is_nan_is_no_label() -> None:
    targets = column([1.0, float("nan"), 0.0, None], pa.float64())
    learned = TASK.learn(targets)
    assert learned.labels == ("0", "1")
    assert TASK.check(targets, [], learned).to_pylist() == [None, "label is null", None, "label is null"]


def test_a_negative_zero_is_zero() -> None:
    targets = column([-0.0, 1.0, 0.0], pa.float64())
    learned = TASK.learn(targets)
    assert learned.labels == ("0", "1")
    assert TASK.check(targets, [], learned).to_pylist() == [None, None, None]


def test_soft_labels_are_told_by_name_and_not_by_place() -> None:
    learned = Learned(("no", "perhaps", "yes"))
    targets = pa.chunked_array([pa.array([{"yes": 0.7, "maybe": 0.0, "no": 0.3}, {"yes": 0.5, "maybe": 0.5, "no": 0}])])
    assert TASK.check(targets, [], learned).to_pylist() == [None, "label is unknown: maybe"]
    table = TASK.judge([outputs_of(np.eye(3)[:1])], rows_without_text(1), targets[:1], learned)
    assert table["truth"].to_pylist() == [2]
    assert TASK.window_targets(targets[:1], rows_without_text(1), learned).values.tolist() == pytest.approx(
        [0.3, 0, 0.7]
    )


def test_a_struct_of_anything_but_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="field 'name' is string; expected a number: the probability of a label"):
        TASK.learn(pa.chunked_array([pa.array([{"name": "x", "id": 1}])]))


def test_several_labels_a_row_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected one label, .* several labels a row are for multi-label"):
        TASK.learn(pa.chunked_array([pa.array([["a", "b"]])]))


def test_a_head_is_not_of_the_kind_its_checkpoint_had() -> None:
    assert TASK.head_config(Learned(("a", "b")))["problem_type"] == "single_label_classification"
