"""A trivial figure is what the task itself gives for that prediction."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.studies.trivial import trivial_prediction
from pipeline.tasks import TASKS
from pipeline.tasks.base import Learned


def judged_by(task: str, judged: dict[str, Any], learned: Learned) -> dict[str, float]:
    return TASKS[task].evaluate(pa.table(judged), learned).metrics


@pytest.mark.parametrize("task", ["text-classification", "pair-classification"])
def test_the_majority_class(task: str) -> None:
    found = trivial_prediction(task, pa.chunked_array([[7, 3, 3], [3, 1, 7, 3]]))
    truth = [2, 1, 1, 1, 0, 2, 1]
    judged = {"truth": truth, "logits": [[0.0, 5.0, 0.0]] * 7}
    expected = judged_by(task, judged, Learned(("1", "3", "7")))
    assert found is not None
    assert found.kind == "always 3"
    assert found.values == pytest.approx({name: expected[name] for name in found.values})
    assert found.values["accuracy"] == pytest.approx(4 / 7)


def test_no_label() -> None:
    found = trivial_prediction("multi-label", pa.chunked_array([[["a"], [], ["a", "b"], []]]))
    judged = {"truth": [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], "scores": [[0.0, 0.0]] * 4}
    assert found is not None
    assert found.values == pytest.approx(judged_by("multi-label", judged, Learned(("a", "b"))))
    assert found.values["exact_match"] == 0.5


def test_no_entity() -> None:
    tags = [["B-x", "I-x", "O"], ["O", "O", "O"]]
    found = trivial_prediction("token-classification", pa.chunked_array([tags]))
    truth = [[{"start": 0, "end": 2, "label": "x"}], []]
    judged = {"truth": truth, "predicted": [[], []], "num_words": [3, 3], "num_right": [1, 3]}
    expected = judged_by("token-classification", judged, Learned())
    assert found is not None
    assert found.values == pytest.approx({name: expected[name] for name in found.values})


def test_no_answer() -> None:
    answers = [{"text": ["x"], "answer_start": [0]}, {"text": [], "answer_start": []}, {"text": [], "answer_start": []}]
    kind = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    found = trivial_prediction("question-answering", pa.chunked_array([pa.array(answers, kind)]))
    judged = {
        "answerable": [True, False, False],
        "margin": pa.array([1.0, 1.0, 1.0], pa.float32()),
        "exact_if_answered": pa.array([1.0, 0.0, 0.0], pa.float32()),
        "f1_if_answered": pa.array([1.0, 0.0, 0.0], pa.float32()),
    }
    expected = judged_by("question-answering", judged, Learned((), {"may_decline": 1.0, "null_threshold": 0.0}))
    assert found is not None
    assert found.values == pytest.approx({name: expected[name] for name in found.values})
    assert found.values["f1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("task", ["similarity", "embedding"])
def test_one_number_for_all(task: str) -> None:
    found = trivial_prediction(task, pa.chunked_array([[0.0, 1.0, 5.0]]))
    expected = judged_by(task, {"truth": [0.0, 1.0, 5.0], "predicted": [2.0, 2.0, 2.0]}, Learned())
    assert found is not None
    assert found.values == pytest.approx(expected)


def test_soft_labels_unknown_tasks_and_no_rows_have_none() -> None:
    soft = pa.chunked_array([pa.array([{"a": 0.5, "b": 0.5}])])
    assert trivial_prediction("text-classification", soft) is None
    assert trivial_prediction("translation", pa.chunked_array([["a"]])) is None
    assert trivial_prediction("text-classification", pa.chunked_array([[]], pa.string())) is None
    assert trivial_prediction("embedding", pa.chunked_array([pa.nulls(3)])) is None
