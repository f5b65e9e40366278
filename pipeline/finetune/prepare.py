"""Everything a training run can know before Ray starts: model, data, labels, output, and the run's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from pipeline.encoder.bundle import (
    BundleInfo,
    check_bundle_target,
    fingerprint_model,
    pin_model,
    read_bundle_info,
    resolve_encoder,
)
from pipeline.encoder.checks import check_encoder, check_segments
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.masking import find_mask
from pipeline.encoder.pairing import check_pairs
from pipeline.encoder.sentence import settle_use
from pipeline.encoder.tokenize import TokenOptions, fingerprint_tokenizer
from pipeline.errors import Checks, ModelError, Problem, SpecError, name_some
from pipeline.finetune.best import check_best
from pipeline.finetune.classes import check_classes
from pipeline.finetune.fitted import check_head_start
from pipeline.finetune.labelled import LabelledSet, LabelPlaces, LabelTarget, check_labels, open_split
from pipeline.finetune.layers import check_layers, check_recomputing
from pipeline.finetune.lora import check_lora
from pipeline.finetune.mean_layer import check_reading
from pipeline.finetune.spec import FinetuneSpec, HeadSpec, MaskingConfig
from pipeline.finetune.teacher import check_versions, find_target, find_version_column, read_teacher
from pipeline.finetune.token_cache import CACHE_FORMAT
from pipeline.registry.resolve import resolve_model
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, check_long_text, find_task
from pipeline.tasks.base import Learned, Task
from pipeline.tracing import span
from pipeline.uris import join_uri

_MAX_NAMED = 10


@dataclass(frozen=True)
class PreparedHead:
    """One task of a run: its data, and how its text becomes tokens."""

    name: str
    spec: HeadSpec
    train: LabelledSet
    validation: LabelledSet | None
    token_options: TokenOptions
    cache_uri: str

    @property
    def task(self) -> Task:
        """The task."""
        return find_task(self.spec.task, "spec")

    @property
    def inputs(self) -> dict[str, str]:
        """The task's inputs in scoring -> the columns they were trained on, where those are the same."""
        task = self.task
        if task.labelled_inputs != (task.inputs,):
            return {name: name for name in task.inputs}
        return dict(zip(task.inputs, self.train.texts[0], strict=True))


@dataclass(frozen=True)
class PreparedTraining:
    """Everything known before Ray starts; `model` is where any node gets the encoder."""

    spec: FinetuneSpec
    model: str
    heads: tuple[PreparedHead, ...]
    fingerprint: str
    data_fingerprint: str
    recipe: dict[str, Any]

    @property
    def storage(self) -> Storage:
        """The spec's stores."""
        return Storage(self.spec.storage)

    @property
    def encoder(self) -> str:
        """A directory on this node, to which it is fetched if need be."""
        return resolve_encoder(self.model, self.storage)

    @property
    def num_rows(self) -> int:
        """Training rows of all tasks, usable or not."""
        return sum(head.train.num_rows for head in self.heads)

    @property
    def run_name(self) -> str:
        """Derives from the spec and the data: another recipe never resumes this run's checkpoints."""
        return run_name_of(self.fingerprint)

    @property
    def metrics_uri(self) -> str:
        """The training log: a status a line."""
        return join_uri(self.spec.work_uri, self.run_name, "metrics.jsonl")

    @property
    def remarks(self) -> list[str]:
        """What the user should know before training starts."""
        return [remark for head in self.heads for remark in _unseen_classes(head)]

    def replaced_bundles(self) -> list[str]:
        """What stands where this run will write, of other runs."""
        return [remark for head in self.heads if (remark := self._replaced(head))]

    def _replaced(self, head: PreparedHead) -> str:
        uri = self.spec.output_of(head.name)
        try:
            info = read_bundle_info(uri, self.storage)
        except ModelError:
            return ""  # none, or half of one
        if info.run_fingerprint == self.fingerprint:
            return ""
        return f"{uri}: the bundle there, model_version {info.model_version} for {info.task}, will be replaced"

    def finished_bundles(self) -> dict[str, BundleInfo] | None:
        """The bundles this very run has already written, by head, if it has written all."""
        try:
            infos = {head.name: read_bundle_info(self.spec.output_of(head.name), self.storage) for head in self.heads}
        except ModelError:
            return None
        return infos if all(info.run_fingerprint == self.fingerprint for info in infos.values()) else None


def run_name_of(fingerprint: str) -> str:
    """The name of the run with this fingerprint."""
    return f"run-{fingerprint[:16]}"


def _unseen_classes(head: PreparedHead) -> list[str]:
    """Labels that no figure will tell anything of."""
    if head.validation is None:
        return []
    unseen = sorted(set(head.train.learned.labels) - set(head.validation.learned.labels))
    if not unseen:
        return []
    return [f"validation{' of ' + head.name if head.name else ''} never shows: {name_some(unseen, _MAX_NAMED)}"]


@span("plan")
def prepare_training(spec: FinetuneSpec, source: str) -> PreparedTraining:
    """Check model, data, labels and output. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage, checks = Storage(spec.storage), Checks()
    model = checks.run(lambda: resolve_model(spec.model, spec.registry, storage))
    encoder = None if model is None else checks.run(lambda: resolve_encoder(model, storage))
    splits = {}
    for name, head in spec.all_heads.items():
        if checks.run(lambda name=name: _check_head(spec, name, source)) is None:  # type: ignore[misc]
            continue
        checks.run(lambda name=name: check_bundle_target(spec.output_of(name), storage))  # type: ignore[misc]
        splits[name] = checks.run(lambda name=name, head=head: _open_splits(spec, name, head, source))  # type: ignore[misc]
    checks.raise_failures()
    assert model is not None
    assert encoder is not None
    _check_recipe(spec, encoder, {name: split for name, split in splits.items() if split is not None}, source)
    tasks = [find_task(head.task, source) for head in spec.all_heads.values()]
    spec = settle_use(spec, encoder, is_strict=any(task.head_class == "AutoModel" for task in tasks))
    heads, tokenizer = [], load_tokenizer(encoder)
    tokenized_by = fingerprint_tokenizer(tokenizer)
    for name, split in splits.items():
        assert split is not None
        task = find_task(spec.all_heads[name].task, source)
        check_encoder(encoder, task.head_class, spec.max_length, tokenizer)
        if any(len(texts) > 1 for texts in task.labelled_inputs):
            check_segments(encoder, tokenizer)
        if task.hides_tokens:
            find_mask(tokenizer)
        if task.pairs_windows:
            check_pairs(encoder, tokenizer)
        options = _token_options(spec, task)
        cache = _cache_uri(spec, task, split[0], tokenized_by)
        heads.append(PreparedHead(name, spec.all_heads[name], *split, options, cache))
    parts = [(head.name, head.train, head.validation) for head in heads]
    prints = [[name, train.fingerprint, held.fingerprint if held else ""] for name, train, held in parts]
    data_fingerprint = hashlib.sha256(json.dumps(prints).encode()).hexdigest()
    model_fingerprint = fingerprint_model(encoder)
    fingerprint = spec.fingerprint(data_fingerprint, model_fingerprint)
    recipe = spec.recipe(data_fingerprint, model_fingerprint)
    return PreparedTraining(spec, pin_model(model, encoder), tuple(heads), fingerprint, data_fingerprint, recipe)


def _check_recipe(
    spec: FinetuneSpec, encoder: str, splits: Mapping[str, tuple[LabelledSet, LabelledSet | None]], source: str
) -> None:
    """The recipe speaks of layers, labels and figures that there are."""
    tasks = {name: find_task(spec.all_heads[name].task, source) for name in splits}
    known = {name: (tasks[name], train.learned) for name, (train, _) in splits.items()}
    judged = {name: tasks[name] for name, (_, validation) in splits.items() if validation is not None}
    checks = Checks()
    checks.run(lambda: check_layers(encoder, spec.training, source))
    checks.run(lambda: check_recomputing(encoder, spec.training, source))
    checks.run(lambda: check_lora(encoder, spec.training.lora, source))
    checks.run(lambda: check_classes(spec.training, known, source))
    checks.run(lambda: check_best(spec.training, judged, source))
    checks.run(lambda: check_head_start(spec.training, tasks.values(), source))
    checks.run(lambda: check_reading(spec, encoder, tasks, source))
    checks.run(lambda: _check_masking(spec, tasks, source))
    checks.raise_failures()


def _check_masking(spec: FinetuneSpec, tasks: Mapping[str, Task], source: str) -> None:
    masking = spec.training.masking
    if masking != MaskingConfig() and not any(task.hides_tokens for task in tasks.values()):
        problem = Problem(
            "training.masking", "is set, and no head guesses hidden tokens", "a spec of `bertmill pretrain`"
        )
        raise SpecError(source, (problem,))


def _check_head(spec: FinetuneSpec, name: str, source: str) -> Task:
    """What a head's block says makes sense for its task."""
    head = spec.all_heads[name]
    task = find_task(head.task, source, spec.field_of(name, "task"))
    check_long_text(task, spec.long_text, source)
    unused = [given for given in task.optional_inputs if given in head.data.inputs and head.data.label]
    if unused:
        remedy = "leave out one of the two: scored pairs are ordered by their scores, triplets have none"
        problem = Problem(spec.field_of(name, "data.inputs"), f"{unused[0]!r} beside a label", "one of them", remedy)
        raise SpecError(source, (problem,))
    known = (*chain.from_iterable(task.labelled_inputs), *task.optional_inputs)
    check_inputs(head.data.inputs, known, source, spec.field_of(name, "data.inputs"))
    return task


def _open_splits(spec: FinetuneSpec, name: str, head: HeadSpec, source: str) -> tuple[LabelledSet, LabelledSet | None]:
    """A head's training and validation rows; optional inputs are training's alone."""
    storage, task, data = Storage(spec.storage), find_task(head.task, source), head.data
    needed = tuple(tuple(data.inputs.get(name, name) for name in group) for group in task.labelled_inputs)
    extra = tuple((data.inputs[name],) for name in task.optional_inputs if name in data.inputs)
    teacher = read_teacher(task, data, spec.registry, storage, source)
    target = LabelTarget(find_target(task, data), None if teacher is None else Learned(teacher.labels))
    checks = Checks()
    train = checks.run(lambda: open_split(data.train, task, (*needed, *extra), target, storage))
    held_out = data.validation
    validation = checks.run(lambda: open_split(held_out, task, needed, target, storage)) if held_out else None
    checks.raise_failures()
    assert train is not None
    places = LabelPlaces(source, spec.field_of(name, "data"))
    if version_column := find_version_column(task, data):
        splits = {"train": train} if validation is None else {"train": train, "validation": validation}
        check_versions(version_column, teacher, splits, places, storage)
    check_labels(task, train, validation, places)
    return train, validation


def _token_options(spec: FinetuneSpec, task: Task) -> TokenOptions:
    """How a task's training text becomes tokens; texts that are compared are cut, not windowed."""
    long_text = "window" if task.windows_always else spec.long_text
    max_length = spec.max_length - task.pairs_windows  # a pair has one more token: what stands between its parts
    return TokenOptions(max_length, "truncate" if task.compares_rows else long_text, spec.stride, task.needs_spans)


def _cache_uri(spec: FinetuneSpec, task: Task, train: LabelledSet, tokenizer: str) -> str:
    """Where the ids for these columns are kept of a tokenizer, which its fingerprint tells."""
    learned = train.learned
    key = {
        "tokenizer": tokenizer,
        "task": task.name,
        "tokens": asdict(_token_options(spec, task)),
        "columns": [train.texts, train.columns.kept],
        "learned": [learned.labels, sorted(learned.options.items())],
        "format": CACHE_FORMAT,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return join_uri(spec.work_uri, "token_cache", digest)
