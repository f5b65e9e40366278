"""Everything a suite can know before Ray starts: each run's spec, encoder, rows, metric and identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.encoder.bundle import fingerprint_model
from pipeline.errors import Checks, InputError, Problem, SpecError
from pipeline.finetune.bundling import prepare_bundle
from pipeline.finetune.labelled import LabelTarget, open_split, read_split
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage
from pipeline.studies.blocks import BlockPlace, merged, read_block
from pipeline.studies.records import RecordStore, fingerprint_of
from pipeline.studies.spec import BUNDLE_FILLED, FINETUNE_FILLED, SuiteRun, SuiteSpec
from pipeline.studies.suite import PreparedSuite, PreparedSuiteRun, SuiteCell, SuiteResult
from pipeline.studies.trivial import trivial_prediction
from pipeline.tasks import check_inputs
from pipeline.tasks.base import Learned, Task
from pipeline.uris import join_uri

_SEARCH_METRICS = ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100")  # of pairs without a score
_VERSION = 1  # of what a record says; a new one makes every record an old one


@dataclass(frozen=True)
class _Work:
    """What one cell does before it measures, and what decides the result."""

    seed: int | None
    todo: PreparedTraining | BundleSpec
    fingerprint: str
    task: Task
    learned: Learned
    inputs: Mapping[str, str]

    @property
    def output(self) -> str:
        return self.todo.output if isinstance(self.todo, BundleSpec) else self.todo.spec.output

    @property
    def num_train_rows(self) -> int | None:
        return None if isinstance(self.todo, BundleSpec) else self.todo.num_rows


@dataclass(frozen=True)
class _TestRows:
    targets: pa.ChunkedArray
    fingerprint: str


def prepare_suite(spec: SuiteSpec, source: str) -> PreparedSuite:
    """Check every run: specs, encoders, training and test rows, metrics. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend, of all runs at once.
    """
    checks, runs = Checks(), []
    for run in spec.runs:
        prepared = checks.run(lambda run=run: _prepare_named(run, spec, source))  # type: ignore[misc]
        runs.append(prepared)
    checks.raise_failures()
    return PreparedSuite(spec, tuple(run for run in runs if run is not None))


def _prepare_named(run: SuiteRun, suite: SuiteSpec, source: str) -> PreparedSuiteRun:
    """Prepare a run; whatever is wrong with it is said with its name."""
    try:
        return _prepare_run(run, suite, f"{source}: run {run.name}")
    except SpecError as error:
        raise SpecError(f"{source}: run {run.name}", error.problems) from None
    except InputError as error:
        raise InputError(f"run {run.name}: {error}") from None


def _prepare_run(run: SuiteRun, suite: SuiteSpec, named: str) -> PreparedSuiteRun:
    works = [_bundled(run, suite, named)] if run.bundle is not None else _trained(run, suite, named)
    first = works[0]
    evaluations = [_evaluation(run, suite, work.output, named) for work in works]
    test = _read_test(first, evaluations[0], named)
    trivial = trivial_prediction(first.task.name, test.targets)
    known = (first.task.main_metric, *(trivial.values if trivial else ()))
    metric = _choose_metric(run, _SEARCH_METRICS if pa.types.is_null(test.targets.type) else known, named)
    store = RecordStore(join_uri(suite.output, "cells"), SuiteResult, Storage(suite.storage))
    cells = []
    for work, evaluation in zip(works, evaluations, strict=True):
        key = fingerprint_of([_VERSION, run.name, work.fingerprint, test.fingerprint, suite.compute.precision])
        cells.append(SuiteCell(run.name, work.seed, work.todo, evaluation, key, store))
    return PreparedSuiteRun(run, first.task.name, metric, first.num_train_rows, trivial, tuple(cells))


def _trained(run: SuiteRun, suite: SuiteSpec, named: str) -> list[_Work]:
    block = merged(suite.defaults, run.finetune or {})
    works = []
    for seed in suite.seeds:
        additions = {
            "output": join_uri(suite.output, run.name, f"seed-{seed}"),
            "training": {"seed": seed},
            "compute": suite.compute.model_dump(),
            "storage": suite.storage.model_dump(),
        }
        spec = read_block(block, additions, FinetuneSpec, BlockPlace(named, FINETUNE_FILLED))
        prepared = prepare_training(spec, named)
        head = prepared.heads[0]
        works.append(_Work(seed, prepared, prepared.fingerprint, head.task, head.train.learned, head.inputs))
    return works


def _bundled(run: SuiteRun, suite: SuiteSpec, named: str) -> _Work:
    additions = {"output": join_uri(suite.output, run.name, "bundle"), "storage": suite.storage.model_dump()}
    spec = read_block(run.bundle or {}, additions, BundleSpec, BlockPlace(named, BUNDLE_FILLED))
    prepared = prepare_bundle(spec, named)
    recipe = spec.model_dump(exclude={"model", "output", "storage", "registry"})
    fingerprint = fingerprint_of([recipe, fingerprint_model(prepared.encoder)])
    return _Work(None, spec, fingerprint, prepared.task, prepared.learned, prepared.inputs)


def _evaluation(run: SuiteRun, suite: SuiteSpec, bundle: str, named: str) -> EvaluateSpec:
    corpus = {name: value for name, value in run.test.items() if name != "label"}
    additions = {
        "bundle": bundle,
        "corpus": corpus,
        "label": run.test.get("label"),
        "compute": suite.compute.model_dump(),
        "storage": suite.storage.model_dump(),
    }
    return read_block({}, additions, EvaluateSpec, BlockPlace(named, ()))


def _read_test(work: _Work, evaluation: EvaluateSpec, named: str) -> _TestRows:
    """Read the test rows that can be measured; their identity is that of the files and how they are read."""
    task, storage, corpus = work.task, Storage(evaluation.storage), evaluation.corpus
    assert corpus is not None
    check_inputs(corpus.inputs, [name for group in task.labelled_inputs for name in group], named, "test.inputs")
    inputs = {**work.inputs, **corpus.inputs}
    texts = tuple(tuple(inputs.get(name, name) for name in group) for group in task.labelled_inputs)
    label = evaluation.label or (task.target if task.needs_target else None)
    split = open_split(corpus.uri, task, texts, LabelTarget(label), storage)
    usable = read_split(split, task, work.learned, corpus.max_bad_fraction, storage)
    return _TestRows(usable.targets, fingerprint_of([split.fingerprint, corpus.empty_text]))


def _choose_metric(run: SuiteRun, known: Sequence[str], named: str) -> str:
    """The run's own, or else the first that is known of its task."""
    if run.metric is not None and run.metric not in known:
        names = ", ".join(sorted(set(known)))
        raise SpecError(named, (Problem("metric", f"{run.metric!r} is not one of its task's", f"one of: {names}"),))
    return run.metric or known[0]
