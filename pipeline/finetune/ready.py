"""A checkpoint whose head is trained already: what its configuration says of labels, as a bundle has to know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.encoder.bundle import BUNDLE_FILE, BundleInfo, read_bundle_info
from pipeline.encoder.loading import read_settings
from pipeline.errors import ModelError, Problem, SpecError
from pipeline.storage import Storage
from pipeline.tasks.base import Learned, Task
from pipeline.tasks.similarity import AS_IT_IS
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
_ACTIVATIONS: dict[str, dict[str, float]] = {
    "torch.nn.modules.activation.Sigmoid": {},
    "torch.nn.modules.linear.Identity": AS_IT_IS,
}


def check_ready(task: Task, source: str) -> None:
    """Refuse tasks for which no checkpoint of others has a head; `source` names the spec in the error.

    Raises:
        SpecError: naming those there are.
    """
    if task.name not in _OPTIONS:
        problem = Problem("task", f"{task.name!r} has no head of its own", f"one of: {', '.join(sorted(_OPTIONS))}")
        raise SpecError(source, (problem,))


def read_own(task: Task, source: str) -> BundleInfo | None:
    """What a directory that is a bundle of the task says of itself.

    Raises:
        ModelError: its `bundle.json` cannot be read.
    """
    info = read_bundle_info(source, Storage()) if (Path(source) / BUNDLE_FILE).is_file() else None
    return info if info is not None and info.task == task.name else None


def learned_of(task: Task, config: Any, source: str, own: BundleInfo | None) -> Learned:
    """What a bundle of the head knows: labels in the head's order, and its own options, thresholds for instance.

    Of a checkpoint of others, answers are never declined, and a similarity is 0 to 1, or any number where the head was
    trained without a sigmoid.

    Args:
        task: What the head does.
        config: The checkpoint's.
        source: Its directory.
        own: What it says of itself if it is a bundle of the task.

    Raises:
        ModelError: the head is of another kind, its labels are no tags, or its number is made in an unknown way.
    """
    options = _OPTIONS[task.name] if own is None else own.options
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
        return Learned((), options if own is not None else {**options, **_number_options(config, source)})
    labels = _labels_of(config, source)
    if task.classes_of == "tokens":
        _check_tags(labels, source)
    return Learned(labels, options)


def _number_options(config: Any, source: str) -> dict[str, float]:
    """How one output becomes a number: as a cross-encoder says; else a regression's is the number itself."""
    saved = read_settings(source, "config_sentence_transformers.json", may_lack=True)
    older = getattr(config, "sentence_transformers", None) or {}
    oldest = getattr(config, "sbert_ce_default_activation_function", None)
    activation = saved.get("activation_fn") or older.get("activation_fn") or oldest
    if activation is None:
        return AS_IT_IS if config.problem_type == "regression" else {}
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"{source}: its activation function is {activation}; expected one of: {', '.join(_ACTIVATIONS)}",
            "save the CrossEncoder with one of these; scores then mean what that one makes of the logits",
        )
    return _ACTIVATIONS[activation]


def _labels_of(config: Any, source: str) -> tuple[str, ...]:
    numbers = sorted(config.id2label)
    if numbers != list(range(config.num_labels)):
        raise ModelError(
            f"{source}: id2label numbers its labels {', '.join(map(str, numbers))}; expected every number from 0 to "
            f"{config.num_labels - 1}, as the head's outputs have them",
            "number them so in config.json, in the order in which the head was trained",
        )
    labels = tuple(str(config.id2label[number]) for number in numbers)
    if len(set(labels)) < len(labels):
        raise ModelError(f"{source}: id2label names a label twice", "give every output its own name in config.json")
    return labels


def _check_tags(labels: tuple[str, ...], source: str) -> None:
    try:
        for label in labels:
            split_tag(label)
    except ValueError as error:
        raise ModelError(f"{source}: id2label: {error}", "give the outputs such names in config.json") from None
    if OUTSIDE not in labels:
        raise ModelError(f"{source}: id2label has no {OUTSIDE!r}", "give the outputs such names in config.json")
