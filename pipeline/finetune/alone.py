"""The same training in one process, without Ray: for studies that run many small trainings side by side."""

from __future__ import annotations

from pipeline.encoder.attention import set_threads
from pipeline.encoder.bundle import BundleInfo
from pipeline.finetune.loop import LoopHooks
from pipeline.finetune.prepare import PreparedTraining
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
    set_threads(num_threads)
    for head in run.heads:
        writer = token_cache_job(run, head, num_threads).build()
        for shard in missing_shards(head.train, head.cache_uri, run.storage):
            writer.process(shard)
        check_cached(head.train, head.cache_uri, head.spec.data.max_bad_fraction, run.storage)
    log = MetricsLog(run)
    job, tokenizer = build_job(run, rank=0, world_size=1)
    judgements = learn(job, LoopHooks(restore=None, save=lambda write: None, report=log.add))
    log.flush()
    return write_result(run, job.context.joined, tokenizer, judgements)
