"""Labelled Parquet and a bundle in, exact figures out: every row is predicted once, however it is sharded.

Unlike scoring, logits travel to the driver: a labelled set fits in its memory, and metrics such as macro F1
need all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import PoolOptions
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import (
    REASON,
    Columns,
    ReadOptions,
    input_column,
    kept_schema,
    read_footers,
    read_shard,
)
from pipeline.corpus.shards import Shard, ShardSize, cut_shards
from pipeline.corpus.stream import stream_shards
from pipeline.encoder.bundle import BundleInfo, read_bundle_info
from pipeline.errors import Checks, CorpusError
from pipeline.inference.spec import EvaluateSpec
from pipeline.inference.worker import InputSource, ModelSource, Predictor, load_predictor
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Evaluation, TargetArray
from pipeline.telemetry import Meter, ProgressDisplay

_RESULT_SCHEMA = pa.schema([("target", pa.string()), ("logits", pa.list_(pa.float32())), ("num_tokens", pa.int64())])


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
        """Targets and logits of a shard's usable rows: those with text and a label."""
        columns = self._job.source.columns
        rows = read_shard(shard, columns, self._job.source.options, self._job.model.storage)
        good = rows.filter(pc.and_(pc.is_null(rows[REASON]), pc.is_valid(rows[columns.kept[0]])))
        tokens, outputs = self._predictor.predict(good[input_column(columns.inputs[0])])
        num_rows, width = outputs.logits.shape
        offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * width)
        logits = pa.ListArray.from_arrays(offsets, pa.array(outputs.logits.reshape(-1)))
        targets = good[columns.kept[0]].cast(pa.string())
        return pa.table([targets, logits, pa.array(tokens.lengths)], schema=_RESULT_SCHEMA)


def prepare_evaluation(spec: EvaluateSpec) -> PreparedEvaluation:
    """Check bundle, files and columns. Starts nothing.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage = Storage(spec.storage)
    checks = Checks()
    bundle = checks.run(lambda: read_bundle_info(spec.bundle, storage))
    files = checks.run(lambda: list_corpus(spec.corpus.uri, storage))
    checks.raise_failures()
    assert bundle is not None
    assert files is not None
    task = find_task(bundle.task, spec.bundle)
    inputs = {**bundle.inputs, **spec.corpus.inputs}
    columns = Columns(tuple(inputs[name] for name in task.inputs), (spec.label or task.target,))
    footers = read_footers(files, columns, storage)
    shards = cut_shards(
        (footer.layout for footer in footers), ShardSize(spec.corpus.shard_rows, spec.corpus.shard_bytes)
    )
    if not shards:
        raise CorpusError(f"{', '.join(spec.corpus.uri)}: no rows in {len(footers)} files", "nothing to evaluate")
    options = ReadOptions(kept_schema(footers, columns.kept), spec.corpus.empty_text == "quarantine")
    return PreparedEvaluation(spec, bundle, tuple(shards), InputSource(columns, options))


def run_evaluation(run: PreparedEvaluation, pool: PoolOptions) -> Evaluation:
    """Predict every row and compute the task's metrics; needs a running Ray.

    Raises:
        CorpusError: a label that the bundle does not know, or too many rows without usable text.
    """
    storage = Storage(run.spec.storage)
    threads = max(1, int(pool.cpus_per_worker))
    job = EvaluateJob(ModelSource(run.spec.bundle, run.spec.compute, threads, storage), run.source)
    meter = Meter()
    parts = []
    with ProgressDisplay("evaluating", run.num_rows, "rows") as display:
        for part in stream_shards(run.shards, job, pool):
            parts.append(part)
            meter.num_rows += part.num_rows
            meter.num_tokens += sum(part["num_tokens"].to_pylist())
            display.update(meter.num_rows, meter.rates())
    results = pa.concat_tables(parts)
    num_bad = run.num_rows - results.num_rows
    limit = run.spec.corpus.max_bad_fraction
    if num_bad > limit * run.num_rows:
        raise CorpusError(
            f"{num_bad} of {run.num_rows} rows have no usable text or label, more than {limit}", "mend the data"
        )
    task = find_task(run.bundle.task, run.spec.bundle)
    targets = task.encode_targets(results["target"], run.bundle.labels)
    _check_known(results["target"], targets, run)
    logits = results["logits"].combine_chunks().flatten().to_numpy().reshape(results.num_rows, -1)
    return task.evaluate(logits, targets, run.bundle.labels)


def _check_known(targets: pa.ChunkedArray, encoded: TargetArray, run: PreparedEvaluation) -> None:
    unknown = sorted({str(targets[int(row)].as_py()) for row in np.flatnonzero(encoded < 0)})
    if unknown:
        raise CorpusError(
            f"column {run.source.columns.kept[0]!r} holds labels the bundle does not know: {', '.join(unknown[:10])}",
            f"the bundle's labels are: {', '.join(run.bundle.labels[:20])}",
        )
