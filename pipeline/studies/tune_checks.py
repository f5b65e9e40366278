"""Everything a search can know before Ray starts."""

from __future__ import annotations

from typing import Literal

from pipeline.errors import Checks, Problem, SpecError
from pipeline.extras import STUDIES, check_extra
from pipeline.finetune.best import OF_A_SEARCH, figure_names
from pipeline.finetune.prepare import PreparedHead, PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.studies.blocks import BlockPlace, merged, read_block
from pipeline.studies.records import RecordStore, fingerprint_of
from pipeline.studies.space import Point, as_block, draw_points, field_names
from pipeline.studies.tune import Goal, PreparedTune, Trial, TrialRecord
from pipeline.studies.tune_spec import SAME_FOR_ALL, TUNE_FILLED, TuneSpec
from pipeline.tasks.base import LOWER_IS_BETTER
from pipeline.uris import join_uri

_VERSION = 1  # of what a trial does; a new one makes every record an old one


def prepare_tune(spec: TuneSpec, source: str) -> PreparedTune:
    """Check the space, the recipe of every trial, its data and encoder, and the metric. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    check_extra("a search needs", "studies", STUDIES)
    _check_space(spec, source)
    points = draw_points(spec.space, spec.trials, spec.seed)
    checks = Checks()
    prepared = [checks.run(lambda point=point: _prepare_point(spec, point, source)) for point in points]  # type: ignore[misc]
    checks.raise_failures()
    works = [work for work in prepared if work is not None]
    goal = _find_goal(spec, works[0], source)
    store = RecordStore(join_uri(spec.output, "records"), TrialRecord, Storage(spec.storage))
    trials = (
        Trial(number, point, work, fingerprint_of([_VERSION, work.fingerprint]), store)
        for number, (point, work) in enumerate(zip(points, works, strict=True), 1)
    )
    return PreparedTune(spec, goal, tuple(trials)).read_records()


def _check_space(spec: TuneSpec, source: str) -> None:
    """Fields that exist and may differ, each of whose extremes is a value the field takes."""
    problems = [problem for path in spec.space for problem in _path_problems(path)] + _overlaps(spec)
    if problems:
        raise SpecError(source, tuple(problems))
    start = {path: drawn.extremes[0] for path, drawn in spec.space.items()}
    ends = [(path, value) for path, drawn in spec.space.items() for value in drawn.extremes]
    checks = Checks()
    for path, value in ends:
        checks.run(lambda path=path, value=value: _read_point(spec, {**start, path: value}, source))  # type: ignore[misc]
    checks.raise_failures()


def _path_problems(path: str) -> list[Problem]:
    field = f"space.{path}"
    if path.partition(".")[0] in SAME_FOR_ALL:
        return [Problem(field, "is the same for every trial", "a field of the recipe or the encoder")]
    known = field_names(FinetuneSpec, path)
    if known is None:
        return [Problem(field, "is not a known field", "a dotted field such as training.learning_rate")]
    if path.rpartition(".")[2] not in known:
        return [Problem(field, "is not a known field", f"one of: {', '.join(known)}")]
    return []


def _overlaps(spec: TuneSpec) -> list[Problem]:
    """A block and one of its own fields cannot both be drawn: one would undo the other."""
    return [
        Problem(f"space.{path}", f"is a field of space.{block}", "a block or its fields, not both")
        for block in spec.space
        for path in spec.space
        if path.startswith(f"{block}.")
    ]


def _read_point(spec: TuneSpec, point: Point, source: str) -> FinetuneSpec:
    additions = {
        "output": join_uri(spec.output, "best"),
        "work": join_uri(spec.output, "work"),
        "compute": spec.compute.model_dump(),
        "storage": spec.storage.model_dump(),
    }
    place = BlockPlace(f"{source}: finetune", TUNE_FILLED)
    return read_block(merged(spec.finetune, as_block(point)), additions, FinetuneSpec, place)


def _prepare_point(spec: TuneSpec, point: Point, source: str) -> PreparedTraining:
    return prepare_training(_read_point(spec, point, source), f"{source}: finetune")


def _find_goal(spec: TuneSpec, work: PreparedTraining, source: str) -> Goal:
    """The metric by the name that statuses give it."""
    tasks = {head.name: head.task for head in work.heads if head.validation is not None}
    if not tasks:
        problem = Problem("finetune.data.validation", "is missing", "rows to compare trials on")
        raise SpecError(source, (problem,))
    known = figure_names(tasks)
    metric = spec.metric
    if metric == "auto" and len(tasks) == 1:
        (head,) = (head for head in work.heads if head.validation is not None)
        metric = ".".join(filter(None, [head.name, _main_metric(head)]))
    if metric not in known:
        auto = ["auto"] if len(tasks) == 1 else []  # figures of several tasks cannot be compared with each other
        problem = Problem("metric", f"holds {spec.metric!r}", f"one of: {', '.join([*auto, *known])}")
        raise SpecError(source, (problem,))
    lower: Literal["max", "min"] = "min" if metric.rpartition(".")[2] in LOWER_IS_BETTER else "max"
    return Goal(metric, spec.mode or lower)


def _main_metric(head: PreparedHead) -> str:
    """The task's, or what a search is judged by where validation rows have no score."""
    has_target = head.validation is not None and bool(head.validation.columns.kept)
    return OF_A_SEARCH if not has_target and OF_A_SEARCH in head.task.metrics else head.task.main_metric
