"""A cascade tried on labelled rows: for each `min_score`, which rows the small bundle keeps, the figures, the time.

Both bundles answer every row once; what a cascade would have answered is put together from that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.encoder.bundle import read_bundle_info
from pipeline.inference.cascade import check_cascade
from pipeline.inference.evaluate import (
    ROW,
    TOKENS,
    EvaluateJob,
    PreparedEvaluation,
    ShardEvaluator,
    conclude,
    evaluate_job,
    judge_shards,
    prepare_evaluation,
)
from pipeline.inference.spec import FIRST, EvaluateSpec
from pipeline.inference.stages import StageClock
from pipeline.registry.resolve import resolve_model
from pipeline.storage import Storage
from pipeline.tasks.base import Evaluation, FloatArray
from pipeline.tasks.numbers import matrix, score_lists, softmax

_TRUTH, _FIRST_LOGITS, _LOGITS = "truth", "first:logits", "logits"
_FIRST_S, _LAST_S = "first:seconds", "seconds"


@dataclass(frozen=True)
class CascadeLevel:
    """What a cascade with one `min_score` does.

    Attributes:
        min_score: The first bundle's answers stand from this score on; None: it is not asked at all.
        kept_share: Of all rows, those that the first bundle answers.
        time_share: Seconds of tokenising and of both models, over those of the last bundle alone.
        metrics: Over all rows.
    """

    min_score: float | None
    kept_share: float
    time_share: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class CascadeEvaluation(Evaluation):
    """The last bundle's own figures, and those of cascades: without the first bundle, by `min_score`, and it alone."""

    levels: tuple[CascadeLevel, ...] = ()


@dataclass(frozen=True)
class PreparedTrial:
    """Everything known before Ray starts: an evaluation of each bundle, over the same rows."""

    first: PreparedEvaluation
    last: PreparedEvaluation

    @property
    def total(self) -> str:
        """What there is to evaluate, for people."""
        return self.last.total

    def measure(self, pool: PoolOptions) -> CascadeEvaluation:
        """Ask both bundles about every row, and compute all figures; needs a running Ray.

        Raises:
            CorpusError: a label that the bundles do not know, or too many rows without usable text.
        """
        return self.conclude(judge_shards(self.last, self.job(pool.threads_per_worker), pool))

    def job(self, num_threads: int) -> TrialJob:
        """What a worker of so many threads is told."""
        return TrialJob(evaluate_job(self.first, num_threads), evaluate_job(self.last, num_threads))

    def conclude(self, judged: pa.Table) -> CascadeEvaluation:
        """The figures over what workers said of all rows.

        Raises:
            CorpusError: too few of the rows are among it.
        """
        trial = self.last.spec.cascade
        assert trial is not None
        alone = conclude(self.last, judged)
        answers = _Answers.of(judged)
        levels = [answers.level(self.last, min_score) for min_score in sorted({0.0, *trial.min_scores})]
        unasked = CascadeLevel(None, 0.0, 1.0, alone.metrics)
        return CascadeEvaluation(**vars(alone), levels=(unasked, *reversed(levels)))


@dataclass(frozen=True)
class TrialJob:
    """What a worker is told."""

    first: EvaluateJob
    last: EvaluateJob

    def build(self) -> ShardTrial:
        """Load both models in the worker's own process."""
        return ShardTrial(self.first.build(), self.last.build())


class ShardTrial:
    """Has both bundles answer labelled shards."""

    def __init__(self, first: ShardEvaluator, last: ShardEvaluator) -> None:
        self._first, self._last = first, last

    def process(self, shard: Shard) -> pa.Table:
        """Truth, both bundles' logits, and each row's part of the seconds that each took, by its tokens."""
        first, first_s = _timed(self._first, shard)
        last, last_s = _timed(self._last, shard)
        return (
            last.append_column(_FIRST_LOGITS, first[_LOGITS])
            .append_column(_FIRST_S, pa.array(first_s))
            .append_column(_LAST_S, pa.array(last_s))
        )


def prepare_trial(spec: EvaluateSpec, source: str = "spec") -> PreparedTrial:
    """Check both bundles, files and columns. Starts nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    assert spec.cascade is not None
    assert spec.corpus is not None
    storage, last = Storage(spec.storage), prepare_evaluation(spec, source)
    uri = resolve_model(spec.cascade.first, spec.registry, storage)
    bundles = {FIRST: read_bundle_info(uri, storage), "": last.bundle}
    check_cascade(bundles, spec.corpus.inputs, source)  # before the first one's inputs are asked for
    first = prepare_evaluation(spec.model_copy(update={"bundle": uri, "cascade": None}), source)
    return PreparedTrial(first, last)


@dataclass(frozen=True)
class _Answers:
    """Both bundles' answers to all rows: `ROW`, truth [R], logits [R, C], the first's highest probability, seconds."""

    rows: pa.ChunkedArray
    truth: pa.ChunkedArray
    first_RC: FloatArray
    last_RC: FloatArray
    scores: FloatArray
    first_s: npt.NDArray[np.float64]
    last_s: npt.NDArray[np.float64]

    @classmethod
    def of(cls, judged: pa.Table) -> _Answers:
        """What workers said."""
        first_RC, last_RC = (matrix(judged[name]) for name in (_FIRST_LOGITS, _LOGITS))
        seconds = (judged[name].to_numpy() for name in (_FIRST_S, _LAST_S))
        return cls(judged[ROW], judged[_TRUTH], first_RC, last_RC, softmax(first_RC).max(axis=1), *seconds)

    def level(self, run: PreparedEvaluation, min_score: float) -> CascadeLevel:
        """The figures of a cascade."""
        is_kept = self.scores >= min_score
        logits_RC = np.where(is_kept[:, None], self.first_RC, self.last_RC)
        judged = pa.table({ROW: self.rows, _TRUTH: self.truth, _LOGITS: score_lists(logits_RC)})
        metrics = conclude(run, judged).metrics
        spent_s = self.first_s.sum() + self.last_s[~is_kept].sum()
        return CascadeLevel(min_score, float(is_kept.mean()), float(spent_s / self.last_s.sum()), metrics)


def _timed(evaluator: ShardEvaluator, shard: Shard) -> tuple[pa.Table, npt.NDArray[np.float64]]:
    clock = StageClock()
    judged = evaluator.judge(shard, clock)
    tokens = judged[TOKENS].to_numpy()
    seconds = clock.seconds_in("tokenize") + clock.seconds_in("model")
    return judged, seconds * tokens / max(tokens.sum(), 1)
