"""The validation rows that a trained model does worst on. R rows, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.finetune.loop import ValidationRows
from pipeline.tasks.base import Learned
from pipeline.tasks.numbers import matrix

FloatArray = npt.NDArray[np.float64]
_MAX_CHARACTERS = 400
_TINY = 1e-7  # a probability of 0 would cost infinitely much


@dataclass(frozen=True)
class HardRow:
    """A row, what it should have been and what it was taken for."""

    loss: float
    truth: str
    predicted: str
    text: str


def find_hardest(judged: pa.Table, rows: ValidationRows, learned: Learned, num_rows: int) -> list[HardRow]:
    """Rows with the highest loss, the highest first; none for tasks whose rows have no loss of their own.

    Args:
        judged: What the task's `judge` made of the rows, one for each.
        rows: The rows.
        learned: With the labels.
        num_rows: How many at most.
    """
    found = _losses(judged)
    if found is None:
        return []
    losses_R, kind = found
    order = np.argsort(-np.nan_to_num(losses_R, nan=-1.0), kind="stable")[:num_rows]
    return [
        HardRow(float(losses_R[row]), *_told(judged, int(row), kind, learned), _text(rows, int(row)))
        for row in order
        if np.isfinite(losses_R[row])
    ]


def _losses(judged: pa.Table) -> tuple[FloatArray, str] | None:
    """Each row's loss [R], and what kind of target it has."""
    names = set(judged.column_names)
    if not judged.num_rows or "truth" not in names:
        return None
    if "logits" in names:
        truth_R, logits_RC = judged["truth"].to_numpy(), matrix(judged["logits"]).astype(np.float64)
        shifted_RC = logits_RC - logits_RC.max(axis=1, keepdims=True)
        own_R = shifted_RC[np.arange(len(truth_R)), truth_R]
        return np.where(truth_R < 0, np.nan, np.log(np.exp(shifted_RC).sum(axis=1)) - own_R), "class"
    if "scores" in names:
        truth_RC, scores_RC = matrix(judged["truth"]), matrix(judged["scores"]).astype(np.float64)
        right_RC = np.clip(np.where(truth_RC > 0, scores_RC, 1 - scores_RC), _TINY, 1)
        return -np.log(right_RC).mean(axis=1), "labels"
    if "predicted" in names and pa.types.is_floating(judged["predicted"].type):
        difference_R = judged["truth"].to_numpy().astype(np.float64) - judged["predicted"].to_numpy()
        return difference_R**2, "number"
    return None


def _told(judged: pa.Table, row: int, kind: str, learned: Learned) -> tuple[str, str]:
    """Truth and prediction in words; of several labels, those above one half."""
    truth = judged["truth"][row].as_py()
    if kind == "class":
        return learned.labels[truth], learned.labels[int(np.argmax(judged["logits"][row].as_py()))]
    if kind == "labels":
        scores = judged["scores"][row].as_py()
        return _names(truth, learned), _names([score >= 0.5 for score in scores], learned)
    return f"{truth:.4g}", f"{judged['predicted'][row].as_py():.4g}"


def _names(flags: list[float] | list[bool], learned: Learned) -> str:
    return ", ".join(label for label, flag in zip(learned.labels, flags, strict=True) if flag) or "(none)"


def _text(rows: ValidationRows, row: int) -> str:
    whole = " | ".join(column[row].as_py() for column in rows.examples.texts)
    return whole if len(whole) <= _MAX_CHARACTERS else f"{whole[: _MAX_CHARACTERS - 1]}…"
