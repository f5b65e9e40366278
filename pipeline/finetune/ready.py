"""A checkpoint whose head is trained already: what its configuration says of labels, as a bundle has to know it."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ModelError, Problem, SpecError
from pipeline.tasks.base import Learned, Task
from pipeline.tasks.tagging import OUTSIDE, split_tag

_OPTIONS: dict[str, dict[str, float]] = {
    "text-classification": {},
    "pair-classification": {},
    "multi-label": {},
    "token-classification": {},
    "embedding": {},
    "similarity": {"low": 0.0, "high": 1.0},
    "question-answering": {"may_decline": 0.0, "null_threshold": 0.0},
}
_KIND_OF_HEAD = {"similarity": "regression", "multi-label": "multi_label_classification"}


def check_ready(task: Task, field: str) -> None:
    """Refuse tasks for which no checkpoint of others has a head.

    Raises:
        SpecError: naming those there are.
    """
    if task.name not in _OPTIONS:
        problem = Problem(field, f"{task.name!r} has no head of its own", f"one of: {', '.join(sorted(_OPTIONS))}")
        raise SpecError("spec", (problem,))


def learned_of(task: Task, config: Any, source: str) -> Learned:
    """What a bundle of the head knows: labels in the head's order; answers are never declined; similarity is 0 to 1.

    Raises:
        ModelError: the head is of another kind, or its labels are no tags.
    """
    options = _OPTIONS[task.name]
    if task.name in ("embedding", "question-answering"):
        return Learned((), options)
    kind = getattr(config, "problem_type", None)
    wanted = _KIND_OF_HEAD.get(task.name, "single_label_classification")
    num_outputs = config.num_labels
    is_number = task.name == "similarity"
    if (kind is not None and kind != wanted and task.classes_of != "tokens") or (num_outputs == 1) != is_number:
        raise ModelError(
            f"{source}: its head has {num_outputs} outputs, problem_type {kind}; task {task.name} takes "
            f"{'one' if is_number else 'two or more'}, of {wanted}",
            "choose the task that the checkpoint was trained for",
        )
    if is_number:
        return Learned((), options)
    labels = tuple(str(config.id2label[index]) for index in range(num_outputs))
    if len(set(labels)) < len(labels):
        raise ModelError(f"{source}: id2label names a label twice", "give every output its own name in config.json")
    if task.classes_of == "tokens":
        _check_tags(labels, source)
    return Learned(labels, options)


def _check_tags(labels: tuple[str, ...], source: str) -> None:
    try:
        for label in labels:
            split_tag(label)
    except ValueError as error:
        raise ModelError(f"{source}: id2label: {error}", "give the outputs such names in config.json") from None
    if OUTSIDE not in labels:
        raise ModelError(f"{source}: id2label has no {OUTSIDE!r}", "give the outputs such names in config.json")
