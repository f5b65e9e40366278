"""Learning from a teacher: a scored table stands for the bundle that wrote it, so the teacher itself never runs."""

from __future__ import annotations

from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import Problem, SpecError
from pipeline.finetune.spec import DataConfig
from pipeline.registry.resolve import resolve_model
from pipeline.storage import Storage
from pipeline.tasks.base import Learned, Task

SCORES_COLUMN = "class_scores"


def find_target(task: Task, data: DataConfig) -> str | None:
    """The target column of labelled rows; with a teacher, its scores."""
    usual = SCORES_COLUMN if data.teacher else task.target
    return data.label or (usual if task.needs_target else None)


def read_teacher(task: Task, data: DataConfig, registry: str | None, storage: Storage, source: str) -> Learned | None:
    """The labels whose scores a table holds; None without a teacher.

    Args:
        task: What learns from it.
        data: Names the teacher.
        registry: Where `models://` is looked up.
        storage: The stores.
        source: The spec's name, for errors.

    Raises:
        SpecError: the task does not learn from scores, or the teacher has another task.
        ModelError: there is no such bundle.
    """
    if data.teacher is None:
        return None
    if task.classes_of != "rows":
        remedy = "distil-embedding learns from a table's embeddings, without `teacher`"
        expected = "a task with one label for each row"
        raise SpecError(source, (Problem("data.teacher", f"is given, for task {task.name}", expected, remedy),))
    info = read_bundle_info(resolve_model(data.teacher, registry, storage), storage)
    if info.task != task.name:
        raise SpecError(source, (Problem("data.teacher", f"is a bundle for {info.task}", f"one for {task.name}"),))
    return Learned(info.labels)
