from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.encoder.outputs import ModelOutputs
from pipeline.encoder.tokenize import TokenRows
from pipeline.tasks import TASKS
from pipeline.tasks.base import Evaluation, Examples, Learned
from pipeline.tasks.numbers import vectors_of

TASK = TASKS["distil-embedding"]
DRAW = np.random.default_rng(0)
TEACHER = DRAW.normal(size=(30, 8)).astype(np.float32)
NOTHING = Examples((), TokenRows(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.bool_)))


def judged(own: np.ndarray, teacher: np.ndarray) -> pa.Table:
    count = len(own)
    outputs = ModelOutputs(np.zeros((count, 0), np.float32), own.astype(np.float32), np.ones(count, bool), 0)
    targets = pa.chunked_array([pa.array(teacher.tolist(), pa.list_(pa.float32()))])
    return TASK.judge([outputs], NOTHING, targets, TASK.learn(targets))


def evaluate(own: np.ndarray, teacher: np.ndarray = TEACHER) -> Evaluation:
    return TASK.evaluate(judged(own, teacher), Learned())


def test_the_teacher_agrees_with_itself_whatever_the_rotation_and_the_lengths() -> None:
    rotation, _ = np.linalg.qr(DRAW.normal(size=(8, 8)))
    same, turned = evaluate(3 * TEACHER).metrics, evaluate(TEACHER @ rotation).metrics
    assert same == pytest.approx({"cka": 1.0, "cosine": 1.0})
    assert turned["cka"] == pytest.approx(1.0, abs=1e-5)
    assert abs(turned["cosine"]) < 0.6


def test_strangers_do_not_agree_and_another_width_has_no_cosine() -> None:
    rows = DRAW.normal(size=(2_000, 6))
    found = evaluate(rows, DRAW.normal(size=(2_000, 8)))
    assert found.num_rows == 2_000
    assert found.metrics.keys() == {"cka"}
    assert found.metrics["cka"] < 0.05


def test_figures_do_not_depend_on_the_order_of_rows() -> None:
    own, order = DRAW.normal(size=(30, 5)), DRAW.permutation(30)
    assert evaluate(own).metrics == pytest.approx(evaluate(own[order], TEACHER[order]).metrics)


def test_no_row_gives_no_figures() -> None:
    empty = judged(TEACHER[:1], TEACHER[:1]).slice(0, 0)
    assert TASK.evaluate(empty, Learned()) == Evaluation(0, {})


def unit(vectors: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=-1)


def test_of_one_width_each_embedding_is_drawn_to_its_teacher_s() -> None:
    own = torch.from_numpy(DRAW.normal(size=(30, 1, 8)))
    expected = sum(1 - float(unit(own[row].numpy())[0] @ unit(TEACHER)[row]) for row in range(30))
    assert float(TASK.loss_sum(own, unit(TEACHER))) == pytest.approx(expected, rel=1e-5)


def test_of_two_widths_the_cosines_between_texts_are() -> None:
    own = torch.from_numpy(DRAW.normal(size=(30, 1, 5)))
    gaps = [
        float(unit(own[left].numpy())[0] @ unit(own[right].numpy())[0] - unit(TEACHER)[left] @ unit(TEACHER)[right])
        for left in range(30)
        for right in range(30)
    ]
    assert float(TASK.loss_sum(own, unit(TEACHER))) == pytest.approx(30 * np.mean(np.square(gaps)), rel=1e-4)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_lists_of_every_kind_are_read_and_what_does_not_fit_is_not_a_number(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array([[1.0, 2.0], None], kind), pa.array([[None, 4.0], [5.0, 6.0]], kind)]).slice(1)
    found = vectors_of(column, 2)
    assert np.isnan(found[0]).all()
    assert np.isnan(found[1, 0])
    assert found[1:, 1].tolist() == [4.0, 6.0]
    assert np.isnan(vectors_of(column, 3)).all()


def test_numbers_that_are_no_lists_are_refused() -> None:
    with pytest.raises(TypeError, match="lists of numbers are expected"):
        vectors_of(pa.chunked_array([pa.array([1.0])]))
