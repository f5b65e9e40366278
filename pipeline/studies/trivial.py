"""What a prediction without any model reaches, from the test rows' own targets.

It is a floor to read a figure by, not a method: the majority class is that of the test rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tasks.text_classification import label_names


@dataclass(frozen=True)
class Trivial:
    """A trivial prediction.

    Attributes:
        kind: What it predicts.
        values: Metric -> what it reaches, in the task's own unit.
    """

    kind: str
    values: Mapping[str, float]


def trivial_prediction(task: str, targets: pa.ChunkedArray) -> Trivial | None:
    """The trivial prediction for a task's checked targets [R]; None without targets, or for a task not known here."""
    judge = _TRIVIAL.get(task)
    return None if judge is None or pa.types.is_null(targets.type) or not len(targets) else judge(targets)


def _majority(targets: pa.ChunkedArray) -> Trivial | None:
    if pa.types.is_struct(targets.type):
        return None
    names, counts = np.unique(np.asarray(label_names(targets).to_pylist()), return_counts=True)
    share = float(counts.max() / counts.sum())
    f1 = 2 * share / (1 + share)  # of that class: precision is its share, recall 1; every other class has F1 0
    values = {"accuracy": share, "macro_f1": f1 / len(names), "weighted_f1": f1 * share, "mcc": 0.0}
    return Trivial(f"always {names[counts.argmax()]!s}", values)


def _constant(_: pa.ChunkedArray) -> Trivial:
    return Trivial("one number for all", {"spearman": 0.0, "pearson": 0.0})


def _no_label(targets: pa.ChunkedArray) -> Trivial:
    without = pc.equal(pc.list_value_length(targets), 0)
    return Trivial("no label", {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": _share(without)})


def _no_entity(_: pa.ChunkedArray) -> Trivial:
    return Trivial("no entity", {"f1": 0.0, "precision": 0.0, "recall": 0.0})


def _no_answer(targets: pa.ChunkedArray) -> Trivial:
    """An empty answer is right, in EM and F1, where there is none; SQuAD's figures are percent."""
    without = pa.array([not answers["text"] for answers in targets.to_pylist()])
    percent = 100 * _share(without)
    return Trivial("no answer", {"exact_match": percent, "f1": percent})


def _share(flags: pa.Array | pa.ChunkedArray) -> float:
    return float(pc.mean(flags.cast(pa.float64())).as_py())


_TRIVIAL: dict[str, Callable[[pa.ChunkedArray], Trivial | None]] = {
    "text-classification": _majority,
    "pair-classification": _majority,
    "similarity": _constant,
    "embedding": _constant,
    "multi-label": _no_label,
    "token-classification": _no_entity,
    "question-answering": _no_answer,
}
