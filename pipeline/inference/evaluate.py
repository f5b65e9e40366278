"""Labelled Parquet and a bundle in, exact figures out: every row is predicted once, however it is sharded.

Unlike scoring, logits travel to the driver: a labelled set fits in its memory, and metrics such as macro F1
need all of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa

from pipeline.config import CorpusConfig, PoolOptions
from pipeline.corpus.column_types import holds_words
from pipeline.corpus.reader import Columns, ReadOptions, read_shard
from pipeline.corpus.rows import open_rows
from pipeline.corpus.shards import Shard, ShardSize
from pipeline.corpus.stream import WorkerFactory, stream_shards
from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import CorpusError
from pipeline.inference.predictor import Predictor, load_predictor
from pipeline.inference.prepare import open_inputs
from pipeline.inference.source import ModelSource, TextSource
from pipeline.inference.spec import EvaluateSpec
from pipeline.inference.stages import StageClock
from pipeline.registry.resolve import resolve_model
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, find_task
from pipeline.tasks.base import Evaluation, Learned, Task, targets_of
from pipeline.tasks.usable import MAX_NAMED, check_target, find_usable, list_reasons
from pipeline.telemetry import Meter, ProgressDisplay
from pipeline.tracing import span

TOKENS = "evaluation:num_tokens"
ROW = "evaluation:row"
_ONLY = ""  # the name of a bundle that works alone


@dataclass(frozen=True)
class LabelledSource:
    """Which columns an evaluating worker reads, how, and which of them make each model input of a row."""

    columns: Columns
    options: ReadOptions
    groups: tuple[TextSource, ...]


@dataclass(frozen=True)
class PreparedEvaluation:
    """Everything known before Ray starts."""

    spec: EvaluateSpec
    corpus: CorpusConfig
    bundle: BundleInfo
    shards: tuple[Shard, ...]
    source: LabelledSource

    @property
    def num_rows(self) -> int:
        """Rows to evaluate."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def total(self) -> str:
        """What there is to evaluate, for people."""
        return f"{self.num_rows:,} rows"

    def measure(self, pool: PoolOptions) -> Evaluation:
        """`run_evaluation`."""
        return run_evaluation(self, pool)


@dataclass(frozen=True)
class EvaluateJob:
    """What an evaluating worker is told."""

    model: ModelSource
    source: LabelledSource

    def build(self) -> ShardEvaluator:
        """Load the model in the worker's own process."""
        return ShardEvaluator(self, load_predictor(self.model))


class ShardEvaluator:
    """Predicts labelled shards."""

    def __init__(self, job: EvaluateJob, predictor: Predictor) -> None:
        self._job = job
        self._predictor = predictor

    def process(self, shard: Shard) -> pa.Table:
        """`judge`, for a pool."""
        return self.judge(shard, StageClock())

    def judge(self, shard: Shard, clock: StageClock) -> pa.Table:
        """The task's judgement of each usable row (text there, target there and sound), and its tokens in `TOKENS`.

        `ROW` is a hash of which row of which file it is of.

        Args:
            shard: Where the rows are.
            clock: Told what this takes.
        """
        source, member = self._job.source, self._predictor.members[_ONLY]
        task, learned, kept = member.task, member.learned, source.columns.kept
        rows = read_shard(shard, source.columns, source.options, self._job.model.storage)
        rows, _ = find_usable(rows, source.columns, task, learned)
        predictions = [self._predictor.predict(rows, {_ONLY: group}, clock)[_ONLY] for group in source.groups]
        examples = replace(predictions[-1].examples, texts=tuple(map(rows.column, source.columns.input_names)))
        outputs = [prediction.outputs for prediction in predictions]
        judged = task.judge(outputs, examples, targets_of(rows, kept), learned)
        num_tokens = sum(prediction.examples.tokens.row_tokens for prediction in predictions)
        return judged.append_column(TOKENS, pa.array(num_tokens)).append_column(ROW, _row_hashes(rows, shard))


@span("plan")
def prepare_evaluation(spec: EvaluateSpec, source: str = "spec") -> PreparedEvaluation:
    """Check bundle, files and columns of a spec that names labelled rows. Starts nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage, corpus = Storage(spec.storage), spec.corpus
    assert corpus is not None
    spec = spec.model_copy(update={"bundle": resolve_model(spec.bundle, spec.registry, storage)})
    bundles, files = open_inputs({_ONLY: spec.bundle}, corpus.uri, storage)
    bundle = bundles[_ONLY]
    task = find_task(bundle.task, spec.bundle)
    check_inputs(corpus.inputs, [name for group in task.labelled_inputs for name in group], source, "corpus.inputs")
    inputs = {**bundle.inputs, **corpus.inputs}
    texts = [tuple(inputs.get(name, name) for name in group) for group in task.labelled_inputs]
    label = spec.label or (task.target if task.needs_target else None)
    columns = Columns(tuple(chain.from_iterable(texts)), (label,) if label else ())
    size = ShardSize(corpus.shard_rows, corpus.shard_bytes)
    opened = open_rows(files, columns, storage, size, corpus.empty_text == "quarantine")
    check_target(opened.options.kept_schema, columns, task, Learned(bundle.labels, bundle.options))
    groups = tuple(TextSource(group, holds_words(opened.footers, Columns(group))) for group in texts)
    return PreparedEvaluation(spec, corpus, bundle, opened.shards, LabelledSource(columns, opened.options, groups))


@span("evaluate")
def run_evaluation(run: PreparedEvaluation, pool: PoolOptions) -> Evaluation:
    """Predict every row and compute the task's metrics; needs a running Ray.

    Raises:
        CorpusError: a label that the bundle does not know, or too many rows without usable text.
    """
    return conclude(run, judge_shards(run, evaluate_job(run, pool.threads_per_worker), pool))


def judge_shards(run: PreparedEvaluation, job: WorkerFactory, pool: PoolOptions) -> pa.Table:
    """What workers say of a run's rows, in no fixed order, with `TOKENS`; shows how far they are.

    Raises:
        CorpusError: too few of the rows are usable.
    """
    meter = Meter()
    parts = []
    with ProgressDisplay("evaluating", run.num_rows, "rows") as display:
        for part in stream_shards(run.shards, job, pool):
            parts.append(part)
            meter.num_rows += part.num_rows
            meter.num_tokens += sum(part[TOKENS].to_pylist())
            display.update(meter.num_rows, meter.rates())
    check_enough(run, meter.num_rows)  # of rows that are all unusable not even an empty part comes
    return pa.concat_tables(parts)


def evaluate_alone(run: PreparedEvaluation, num_threads: int) -> Evaluation:
    """The same figures, computed in this process without Ray.

    Raises:
        CorpusError: as `run_evaluation`.
    """
    evaluator = evaluate_job(run, num_threads).build()
    return conclude(run, pa.concat_tables([evaluator.process(shard) for shard in run.shards]))


def evaluate_job(run: PreparedEvaluation, num_threads: int) -> EvaluateJob:
    """What a worker of so many threads is told."""
    storage, spec = Storage(run.spec.storage), run.spec
    texts = {_ONLY: run.source.groups[0]}
    return EvaluateJob(ModelSource({_ONLY: spec.bundle}, texts, spec.compute, num_threads, storage), run.source)


def check_enough(run: PreparedEvaluation, num_good: int) -> None:
    """Refuse figures over too few of a run's rows.

    Raises:
        CorpusError: with the first reasons.
    """
    num_bad, limit = run.num_rows - num_good, run.corpus.max_bad_fraction
    if num_bad > limit * run.num_rows or num_good == 0:
        raise CorpusError(
            f"{num_bad} of {run.num_rows} rows have no usable text, or a target that is missing, broken or unknown to "
            f"the bundle; more than max_bad_fraction {limit}:\n{list_reasons(_first_reasons(run))}",
            "mend the data, or raise corpus.max_bad_fraction",
        )


def conclude(run: PreparedEvaluation, results: pa.Table) -> Evaluation:
    """The figures over all judged rows.

    Raises:
        CorpusError: too few of the run's rows are among them.
    """
    check_enough(run, results.num_rows)
    task, learned = _learned(run)
    return replace(task.evaluate(results, learned), rows_digest=_digest_rows(results[ROW]))


def _row_hashes(rows: pa.Table, shard: Shard) -> pa.Array:
    """A number for each row [R] that names its file, what that held, and its place there."""
    etags = {piece.file.uri: piece.file.etag for piece in shard.pieces}
    places = zip(rows[SOURCE_FILE].to_pylist(), rows[SOURCE_ROW].to_pylist(), strict=True)
    digests = (hashlib.blake2b(f"{file}\n{etags[file]}\n{row}".encode(), digest_size=8) for file, row in places)
    return pa.array([int.from_bytes(digest.digest(), "big") for digest in digests], pa.uint64())


def _digest_rows(hashes: pa.ChunkedArray) -> str:
    """Of a set of rows, in whatever order they came."""
    return hashlib.sha256(np.sort(hashes.to_numpy()).tobytes()).hexdigest()[:16]


def _learned(run: PreparedEvaluation) -> tuple[Task, Learned]:
    return find_task(run.bundle.task, run.spec.bundle), Learned(run.bundle.labels, run.bundle.options)


def _first_reasons(run: PreparedEvaluation) -> list[str]:
    """Some rows that cannot be judged, looked for again: workers send what they judged."""
    storage, source, reasons = Storage(run.spec.storage), run.source, list[str]()
    task, learned = _learned(run)
    for shard in run.shards:
        rows = read_shard(shard, source.columns, source.options, storage)
        reasons += find_usable(rows, source.columns, task, learned)[1]
        if len(reasons) >= MAX_NAMED:
            break
    return reasons
