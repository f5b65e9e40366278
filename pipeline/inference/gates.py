"""What a model has to show before an alias names it: no worse figures than the present one's, and fp32's results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CorpusConfig, ScoringCompute, StorageConfig
from pipeline.corpus.reader import REASON, input_column, read_shard
from pipeline.encoder.bundle import fetch_bundle
from pipeline.errors import GateError, ModelError
from pipeline.inference.closeness import Comparison, OwnColumns
from pipeline.inference.evaluate import PreparedEvaluation, evaluate_alone, prepare_evaluation
from pipeline.inference.predictor import load_predictor
from pipeline.inference.reference import PlainModel
from pipeline.inference.source import ModelSource
from pipeline.inference.spec import EvaluateSpec
from pipeline.inference.tolerance import Tolerance
from pipeline.inference.worker import bundle_columns
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import LOWER_IS_BETTER, Evaluation

_ONLY = ""


@dataclass(frozen=True)
class LabelledRows:
    """The rows that gates measure on; the same for every model that is compared.

    Attributes:
        uri: Labelled Parquet.
        label: Its target column; default: the task's.
        inputs: Task input -> column, where the bundle names another.
        num_threads: Threads of this process.
    """

    uri: str
    storage: StorageConfig
    label: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    num_threads: int = 1

    def prepare(self, bundle_uri: str) -> PreparedEvaluation:
        """Check a bundle against these rows.

        Raises:
            InputError: they do not fit each other.
        """
        corpus = CorpusConfig(uri=(self.uri,), inputs=dict(self.inputs))
        compute = ScoringCompute(workers=1)
        return prepare_evaluation(
            EvaluateSpec(bundle=bundle_uri, corpus=corpus, label=self.label, compute=compute, storage=self.storage)
        )

    def first_usable(self, run: PreparedEvaluation, num_rows: int) -> pa.Table:
        """The first rows that can be scored, as `read_shard` returns them [R]: at most `num_rows`, of one shard."""
        read = read_shard(run.shards[0], run.source.columns, run.source.options, Storage(self.storage))
        return read.filter(pc.is_null(read[REASON])).slice(0, num_rows)


@dataclass(frozen=True)
class MetricGate:
    """A figure that may not be worse than the present model's by more than an allowance."""

    metric: str
    allowance: float = 0.0

    def check(self, candidate: str, present: str | None, rows: LabelledRows) -> str:
        """Measure both on the same rows.

        Args:
            candidate: URI of the bundle that is to be named.
            present: URI of the one that is named now, if any.
            rows: What both are measured on.

        Returns:
            What was found, as one line.

        Raises:
            GateError: the candidate is worse, or was not judged on the same rows.
            ModelError: the task has no such metric.
        """
        judged = self._measure(candidate, rows)
        found, num_rows = judged.metrics[self.metric], judged.num_rows
        if present is None:
            return f"{self.metric} {found:.4f} on {num_rows} rows of {rows.uri}; no present model to compare with"
        beside = self._measure(present, rows)
        standing = beside.metrics[self.metric]
        if judged.rows_digest != beside.rows_digest:  # rows that a bundle cannot judge are left out of its own figure
            others = f"{beside.num_rows}{' that are not the same' if num_rows == beside.num_rows else ''}"
            raise GateError(
                f"{self.metric}: judged on {num_rows} rows of {rows.uri}, present model on {others}; "
                "labels that one of them does not know are left out",
                "nothing was promoted; take labelled rows that both know, and that nobody changes meanwhile",
            )
        line = f"{self.metric} {found:.4f}, present model {standing:.4f}, on {num_rows} rows of {rows.uri}"
        loss = found - standing if self.metric in LOWER_IS_BETTER else standing - found
        if not loss <= self.allowance:  # NaN does not pass
            raise GateError(f"{line}: worse by {loss:.4f}; allowed is {self.allowance}", "nothing was promoted")
        return line

    def _measure(self, bundle_uri: str, rows: LabelledRows) -> Evaluation:
        """A bundle's figures, this one among them."""
        evaluation = evaluate_alone(rows.prepare(bundle_uri), rows.num_threads)
        if self.metric not in evaluation.metrics:
            known = ", ".join(evaluation.metrics)
            raise ModelError(f"{bundle_uri}: has no metric {self.metric!r}", f"it has: {known}")
        return evaluation


@dataclass(frozen=True)
class ParityGate:
    """Results, batched and in this machine's precision, that are those of plain transformers in fp32."""

    num_rows: int = 64
    tolerance: Tolerance = field(default_factory=Tolerance)

    def check(self, candidate: str, rows: LabelledRows) -> str:
        """Score the first rows both ways.

        Returns:
            What was found, as one line.

        Raises:
            GateError: a result is further off than the tolerance.
        """
        run = rows.prepare(candidate)
        texts, storage, group = run.source.groups[0], Storage(rows.storage), run.source.groups[0].columns
        task = find_task(run.bundle.task, candidate)
        usable = rows.first_usable(run, self.num_rows)
        predictor = load_predictor(
            ModelSource({_ONLY: candidate}, {_ONLY: texts}, run.spec.compute, rows.num_threads, storage)
        )
        columns = bundle_columns(predictor.members[_ONLY], predictor.predict(usable, {_ONLY: texts})[_ONLY])
        scored = pa.table({SOURCE_FILE: usable[SOURCE_FILE], SOURCE_ROW: usable[SOURCE_ROW], **columns})
        comparison = Comparison(run.bundle, task, OwnColumns(frozenset(columns)), self.tolerance)
        plain = PlainModel(fetch_bundle(candidate, storage), task)
        inputs = zip(*(usable[input_column(name)].to_pylist() for name in group), strict=True)
        for row, own in zip(scored.to_pylist(), inputs, strict=True):
            comparison.add(row, plain.run(own, texts.are_words))
        found = comparison.result(usable.num_rows)
        if found.problems or not found.num_rows:
            first = found.problems[0] if found.problems else "no usable row"
            raise GateError(f"parity with fp32: {len(found.problems)} problems; first: {first}", "nothing was promoted")
        return f"parity with fp32 on {found.num_rows} rows of {rows.uri}: least cosine {found.min_cosine or 1:.6f}"
