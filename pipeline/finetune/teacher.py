"""Learning from a teacher: a scored table stands for the bundle that wrote it, so the teacher itself never runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.reader import guard_read
from pipeline.encoder.bundle import BundleInfo, read_bundle_info
from pipeline.errors import Problem, SpecError
from pipeline.finetune.labelled import LabelledSet, LabelPlaces
from pipeline.finetune.spec import DataConfig
from pipeline.registry.resolve import resolve_model
from pipeline.schema import EMBEDDING, MODEL_VERSION_FIELD
from pipeline.storage import Storage, map_threads
from pipeline.tasks.base import Task

SCORES_COLUMN = "class_scores"
_THREADS = 16


def find_target(task: Task, data: DataConfig) -> str | None:
    """The target column of labelled rows; with a teacher, its scores."""
    usual = SCORES_COLUMN if data.teacher else task.target
    return data.label or (usual if task.needs_target else None)


def read_teacher(
    task: Task, data: DataConfig, registry: str | None, storage: Storage, source: str
) -> BundleInfo | None:
    """The bundle whose scores a table holds; None without a teacher.

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
    return info


def find_version_column(task: Task, data: DataConfig) -> str | None:
    """Where rows say which bundle their targets are of; several bundles in a table prefix it as they do its target."""
    usual = SCORES_COLUMN if data.teacher else EMBEDDING
    if not data.teacher and task.target != EMBEDDING:
        return None
    target = data.label or usual
    prefix = target.removesuffix(usual) if target.endswith(usual) else ""
    return f"{prefix}{MODEL_VERSION_FIELD.name}"


def check_versions(
    column: str,
    teacher: BundleInfo | None,
    splits: Mapping[str, LabelledSet],
    places: LabelPlaces,
    storage: Storage,
) -> None:
    """Rows are of the teacher or, where none is named, of one bundle; rows that do not say are believed.

    Args:
        column: Where rows say so.
        teacher: The bundle that is named.
        splits: Training and validation.
        places: Where they were asked for.
        storage: The stores.

    Raises:
        SpecError: naming the versions.
    """
    found = {name: _read_versions(split, column, storage) for name, split in splits.items()}
    every = set[str]().union(*found.values())
    if teacher is None:
        if len(every) < 2:
            return
        remedy = "name nights that one bundle scored, or score them again with one"
        problem = Problem(places.field, _told(column, every), "rows that one bundle scored", remedy)
        raise SpecError(places.source, (problem,))
    expected = f"{teacher.model_version}, the model_version of data.teacher"
    remedy = "name as data.teacher the bundle that scored all these rows, or score them with the one that is named"
    problems = [
        Problem(f"{places.field}.{name}", _told(column, versions), expected, remedy)
        for name, versions in found.items()
        if versions - {teacher.model_version}
    ]
    if problems:
        raise SpecError(places.source, tuple(problems))


def _told(column: str, versions: set[str]) -> str:
    return f"column {column!r} holds {', '.join(sorted(versions))}"


def _read_versions(split: LabelledSet, column: str, storage: Storage) -> set[str]:
    files = list({piece.file for shard in split.shards for piece in shard.pieces})
    found = map_threads(lambda file: _versions_of(file, column, storage), files, _THREADS)
    return set(chain.from_iterable(found))


def _versions_of(file: CorpusFile, column: str, storage: Storage) -> list[str]:
    """None where there is no such column."""
    filesystem, path = storage.open_arrow(file.uri)
    rows = guard_read(file, lambda: ds.dataset(path, filesystem=filesystem, format="parquet"))
    if column not in rows.schema.names:
        return []
    table: pa.Table = guard_read(file, lambda: rows.to_table([column]))
    return [str(version) for version in table[column].drop_null().unique().to_pylist()]
