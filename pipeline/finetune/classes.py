"""Classes that are rarer or matter more: weights of their losses, and how often their rows are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import Problem, SpecError, name_some
from pipeline.finetune.spec import ClassShares, TrainingConfig
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.base import Learned, Task
from pipeline.tasks.losses import Emphasis

FloatArray = npt.NDArray[np.float64]
_MAX_NAMED = 10


def make_emphasis(data: TokenData, task: Task, labels: Sequence[str], recipe: TrainingConfig) -> Emphasis | None:
    """How a head's loss departs from plain cross-entropy; None where it does not."""
    is_plain = not recipe.label_smoothing and recipe.class_weights is None and recipe.temperature == 1
    if task.classes_of is None or is_plain:
        return None
    weights = None
    if recipe.class_weights is not None:
        weights = torch.from_numpy(_weigh(_count_classes(data, task, labels), labels, recipe.class_weights)).float()
    return Emphasis(recipe.label_smoothing, weights, recipe.temperature)


def weigh_rows(data: TokenData, labels: Sequence[str], shares: ClassShares) -> FloatArray:
    """How often each row is drawn, by its label or its label's distribution; 1 on average."""
    shares_RC = _as_distributions(data, len(labels))
    return shares_RC @ _weigh(shares_RC.sum(axis=0), labels, shares)


def check_classes(recipe: TrainingConfig, heads: Mapping[str, tuple[Task, Learned]], source: str) -> None:
    """Make sure that the labels a recipe weighs are there.

    Args:
        recipe: The recipe.
        heads: Each head's task, and what it learned from its training targets.
        source: The spec's name, for errors.

    Raises:
        SpecError: a task without classes, a label that training never has, or labels named for several heads.
    """
    problems = []
    for field, kinds in (("label_smoothing", _ANY), ("class_weights", _ANY), ("sampling", _ROWS)):
        setting = getattr(recipe, field)
        if setting:
            problems += _problems(f"training.{field}", setting, heads, kinds)
    if problems:
        raise SpecError(source, tuple(problems))


_ANY: tuple[Literal["rows", "tokens"], ...] = ("rows", "tokens")
_ROWS: tuple[Literal["rows", "tokens"], ...] = ("rows",)


def _problems(
    field: str, setting: object, heads: Mapping[str, tuple[Task, Learned]], kinds: tuple[str, ...]
) -> list[Problem]:
    unfit = sorted({task.name for task, _ in heads.values() if task.classes_of not in kinds})
    if unfit:
        expected = "a task with one label for each row" + (" or token" if "tokens" in kinds else "")
        return [Problem(field, f"is set, and the task is {unfit[0]}", expected)]
    if not isinstance(setting, dict):
        return []
    if len(heads) > 1:
        return [Problem(field, "names labels, and there are several heads", "balanced")]
    ((_, learned),) = heads.values()
    unknown = sorted(set(setting) - set(learned.labels))
    known = name_some(learned.labels, _MAX_NAMED)
    return [Problem(f"{field}.{name}", "is not a label of the training rows", f"some of: {known}") for name in unknown]


def _count_classes(data: TokenData, task: Task, labels: Sequence[str]) -> FloatArray:
    """Targets of each class [C]: of rows, or of tokens."""
    if task.classes_of == "rows":
        return np.asarray(_as_distributions(data, len(labels)).sum(axis=0))
    values = data.targets.values
    return np.asarray(np.bincount(values[values >= 0].astype(np.int64), minlength=len(labels)), np.float64)


def _as_distributions(data: TokenData, num_classes: int) -> FloatArray:
    """Each row's probability of each class [R, C]; hard labels are ones."""
    values = data.targets.values.reshape(len(data.targets.weights), -1)
    return np.asarray(values if values.shape[1] > 1 else np.eye(num_classes)[values[:, 0].astype(np.int64)], np.float64)


def _weigh(counts: FloatArray, labels: Sequence[str], shares: ClassShares) -> FloatArray:
    """A weight for each class, 1 on average over the targets, so that the learning rate keeps its meaning."""
    if shares == "balanced":
        weights = 1 / np.where(counts > 0, counts, counts.sum())
    else:
        weights = np.array([shares.get(label, 1.0) for label in labels])
    return np.asarray(weights * counts.sum() / max(float((weights * counts).sum()), 1e-12))
