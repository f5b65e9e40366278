"""The same training in one process, without Ray: for studies that run many small trainings side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.encoder.attention import set_threads
from pipeline.encoder.bundle import BundleInfo
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.token_cache import check_cached, missing_shards
from pipeline.finetune.worker import MetricsLog, build_job, learn, token_cache_job, write_result


def train_alone(run: PreparedTraining, num_threads: int) -> dict[str, BundleInfo]:
    """Tokenise, train and write each head's bundle, in this process; keeps no checkpoints.

    Args:
        run: The checked run.
        num_threads: This process's share of the cores.

    Raises:
        CorpusError: more rows lack usable text or a target than the spec allows.
        TrainingError: the loss is not finite.
    """
    job, tokenizer, judgements = learn_alone(run, num_threads, lambda status: None)
    return write_result(run, job.context.joined, tokenizer, judgements)


def learn_alone(
    run: PreparedTraining, num_threads: int, report: Callable[[TrainingStatus], None]
) -> tuple[LoopJob, Any, Judgements]:
    """Tokenise and train in this process, and write no bundle; `report` hears what the training log does.

    Returns:
        The job, whose network holds the result; the tokenizer; the figures on validation rows.

    Raises:
        CorpusError: more rows lack usable text or a target than the spec allows.
        TrainingError: the loss is not finite.
    """
    set_threads(num_threads)
    for head in run.heads:
        writer = token_cache_job(run, head, num_threads).build()
        for shard in missing_shards(head.train, head.cache_uri, run.storage):
            writer.process(shard)
        check_cached(head.train, head.cache_uri, head.spec.data.max_bad_fraction, run.storage)
    log = MetricsLog(run)

    def hear(status: TrainingStatus) -> None:
        log.add(status)
        report(status)

    job, tokenizer = build_job(run, rank=0, world_size=1)
    judgements = learn(job, LoopHooks(restore=None, save=lambda write: None, report=hear))
    log.flush()
    return job, tokenizer, judgements
