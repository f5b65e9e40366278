"""Labelled Parquet and a bundle in, exact figures out: every row is predicted once, however it is sharded.

Unlike scoring, logits travel to the driver: a labelled set fits in its memory, and metrics such as macro F1
need all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import PoolOptions
from pipeline.corpus.reader import REASON, Columns, ReadOptions, holds_words, kept_schema, read_footers, read_shard
from pipeline.corpus.shards import Shard, ShardSize, cut_shards
from pipeline.corpus.stream import stream_shards
from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import CorpusError
from pipeline.inference.predictor import ModelSource, Predictor, load_predictor
from pipeline.inference.run import open_inputs
from pipeline.inference.spec import EvaluateSpec
from pipeline.inference.worker import InputSource
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, find_task
from pipeline.tasks.base import Evaluation, Learned, Task
from pipeline.telemetry import Meter, ProgressDisplay

_TOKENS = "evaluation:num_tokens"


@dataclass(frozen=True)
class PreparedEvaluation:
    """Everything known before Ray starts."""

    spec: EvaluateSpec
    bundle: BundleInfo
    shards: tuple[Shard, ...]
    source: InputSource

    @property
    def num_rows(self) -> int:
        """Rows to evaluate."""
        return sum(shard.num_rows for shard in self.shards)


@dataclass(frozen=True)
class EvaluateJob:
    """What an evaluating worker is told."""

    model: ModelSource
    source: InputSource

    def build(self) -> ShardEvaluator:
        """Load the model in the worker's own process."""
        return ShardEvaluator(self, load_predictor(self.model))


class ShardEvaluator:
    """Predicts labelled shards."""

    def __init__(self, job: EvaluateJob, predictor: Predictor) -> None:
        self._job = job
        self._predictor = predictor

    def process(self, shard: Shard) -> pa.Table:
        """The task's judgement of each usable row: text there, target there and sound."""
        source, predictor = self._job.source, self._predictor
        task, learned = predictor.task, predictor.learned
        rows = read_shard(shard, source.columns, source.options, self._job.model.storage)
        rows = rows.filter(pc.is_null(rows[REASON]))
        (target,) = source.columns.kept
        texts = dict(zip(flat_inputs(task), source.columns.input_names, strict=True))
        sound = pc.is_null(task.check(rows[target], [rows[name] for name in texts.values()], learned))
        rows = rows.filter(sound)
        predictions = [
            predictor.predict([rows[texts[name]] for name in group], source.are_words)
            for group in task.evaluation_inputs
        ]
        examples = predictions[-1][0]
        judged = task.judge([outputs for _, outputs in predictions], examples, rows[target], learned)
        return judged.append_column(_TOKENS, pa.array(examples.tokens.row_tokens))


def flat_inputs(task: Task) -> tuple[str, ...]:
    """The names of all texts an evaluation reads."""
    return tuple(name for group in task.evaluation_inputs for name in group)


def prepare_evaluation(spec: EvaluateSpec) -> PreparedEvaluation:
    """Check bundle, files and columns. Starts nothing.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage = Storage(spec.storage)
    bundle, files = open_inputs(spec, storage)
    task = find_task(bundle.task, spec.bundle)
    check_inputs(spec.corpus.inputs, flat_inputs(task), "spec")
    inputs = {**bundle.inputs, **spec.corpus.inputs}
    columns = Columns(tuple(inputs.get(name, name) for name in flat_inputs(task)), (spec.label or task.target,))
    footers = read_footers(files, columns, storage)
    shards = cut_shards(
        (footer.layout for footer in footers), ShardSize(spec.corpus.shard_rows, spec.corpus.shard_bytes)
    )
    if not shards:
        raise CorpusError(f"{', '.join(spec.corpus.uri)}: no rows in {len(footers)} files", "nothing to evaluate")
    options = ReadOptions(kept_schema(footers, columns.kept), spec.corpus.empty_text == "quarantine")
    return PreparedEvaluation(spec, bundle, tuple(shards), InputSource(columns, options, holds_words(footers, columns)))


def run_evaluation(run: PreparedEvaluation, pool: PoolOptions) -> Evaluation:
    """Predict every row and compute the task's metrics; needs a running Ray.

    Raises:
        CorpusError: a label that the bundle does not know, or too many rows without usable text.
    """
    job = _evaluate_job(run, max(1, int(pool.cpus_per_worker)))
    meter = Meter()
    parts = []
    with ProgressDisplay("evaluating", run.num_rows, "rows") as display:
        for part in stream_shards(run.shards, job, pool):
            parts.append(part)
            meter.num_rows += part.num_rows
            meter.num_tokens += sum(part[_TOKENS].to_pylist())
            display.update(meter.num_rows, meter.rates())
    return _conclude(run, parts)


def evaluate_alone(run: PreparedEvaluation, num_threads: int) -> Evaluation:
    """The same figures, computed in this process without Ray.

    Raises:
        CorpusError: as `run_evaluation`.
    """
    evaluator = _evaluate_job(run, num_threads).build()
    return _conclude(run, [evaluator.process(shard) for shard in run.shards])


def _evaluate_job(run: PreparedEvaluation, num_threads: int) -> EvaluateJob:
    model = ModelSource(run.spec.bundle, run.spec.compute, num_threads, Storage(run.spec.storage))
    return EvaluateJob(model, run.source)


def _conclude(run: PreparedEvaluation, parts: list[pa.Table]) -> Evaluation:
    results = pa.concat_tables(parts)
    num_bad = run.num_rows - results.num_rows
    limit = run.spec.corpus.max_bad_fraction
    if num_bad > limit * run.num_rows or results.num_rows == 0:
        raise CorpusError(
            f"{num_bad} of {run.num_rows} rows have no usable text, or a target that is missing, broken or unknown to "
            f"the bundle; more than max_bad_fraction {limit}",
            "mend the data, or raise corpus.max_bad_fraction",
        )
    task = find_task(run.bundle.task, run.spec.bundle)
    return task.evaluate(results, Learned(run.bundle.labels, run.bundle.options))
