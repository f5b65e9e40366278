"""One rank's work apart from the loop: load, log, write the bundle. Knows nothing of Ray."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.bundle import BundleInfo, write_bundle
from pipeline.encoder.model import load_network, load_tokenizer
from pipeline.encoder.tokenize import Padding, TextTokenizer
from pipeline.finetune.data import TokenCacheJob, cache_file, check_usable, load_tokens, read_usable
from pipeline.finetune.loop import Judgement, LoopJob, TrainingStatus, ValidationRows, status_record
from pipeline.finetune.plan import TrainingPlan
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.step import StepContext
from pipeline.tasks import find_task
from pipeline.tasks.base import Examples
from pipeline.uris import join_uri


def token_cache_job(run: PreparedTraining, num_threads: int) -> TokenCacheJob:
    """What a worker that tokenises the training split is told."""
    return TokenCacheJob(
        run.encoder,
        run.token_options,
        run.spec.task,
        run.train.learned,
        run.train,
        run.cache_uri,
        num_threads,
        run.storage,
    )


def build_job(run: PreparedTraining, rank: int, world_size: int) -> tuple[LoopJob, Any]:
    """Load data, tokenizer and network on one rank; the new head is seeded, so it is equal on all ranks.

    Returns:
        The loop's job, and the tokenizer for the bundle.
    """
    spec, recipe = run.spec, run.spec.training
    task = find_task(spec.task, "spec")
    data = load_tokens([cache_file(run.cache_uri, shard) for shard in run.train.shards], run.storage)
    tokenizer = TextTokenizer(load_tokenizer(run.encoder), run.token_options)
    runtime = choose_runtime(spec.compute)
    torch.manual_seed(recipe.seed)
    network: Any = load_network(run.encoder, task.head_class, **task.head_config(run.train.learned)).to(runtime.device)
    if world_size > 1:
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        network = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    padding = Padding(tokenizer.pad_id, tokenizer.pads_left)
    context = StepContext(network, task, data, runtime, recipe, padding, world_size)
    plan = TrainingPlan(len(data), recipe.batch_rows, recipe.epochs, recipe.min_steps, recipe.seed)
    validation = _validation_rows(run, tokenizer, rank, world_size)
    job = LoopJob(context, plan, validation, run.train.learned, spec.checkpoint, run.fingerprint, rank)
    return job, load_tokenizer(run.encoder)  # afresh: the other one carries this run's truncation


def _validation_rows(
    run: PreparedTraining, tokenizer: TextTokenizer, rank: int, world_size: int
) -> ValidationRows | None:
    """Every `world_size`-th usable row of validation, tokenised."""
    split = run.validation
    if split is None:
        return None
    task = find_task(run.spec.task, "spec")
    parts = [read_usable(shard, split, task, run.train.learned, run.storage) for shard in split.shards]
    reasons = [reason for part in parts for reason in part.reasons]
    check_usable(split.num_rows, len(reasons), reasons, run.spec.data.max_bad_fraction)
    targets = pa.chunked_array([chunk for part in parts for chunk in part.targets.chunks], parts[0].targets.type)
    texts = [
        pa.chunked_array([chunk for part in parts for chunk in part.texts[index].chunks], pa.large_string())
        for index in range(len(parts[0].texts))
    ]
    mine = pa.array(np.arange(rank, len(targets), world_size))
    own = tuple(text.take(mine) for text in texts)
    return ValidationRows(Examples(own, tokenizer.encode(*own), split.are_words), targets.take(mine))


def write_result(run: PreparedTraining, network: Any, tokenizer: Any, judgement: Judgement | None) -> BundleInfo:
    """Write the bundle; on rank 0 only.

    Args:
        run: The run.
        network: The trained network, or the encoder as it came.
        tokenizer: Its tokenizer.
        judgement: Figures and tuned thresholds, if there was validation.
    """
    spec = run.spec
    learned = judgement.learned if judgement else run.train.learned
    info = BundleInfo(
        task=spec.task,
        inputs=run.inputs,
        labels=learned.labels,
        options=dict(learned.options),
        max_length=spec.max_length,
        long_text=spec.long_text,
        stride=spec.stride,
        pooling=spec.pooling,
        normalize=spec.normalize,
        base_model=spec.model,
        data_fingerprint=run.data_fingerprint,
        run_fingerprint=run.fingerprint,
        metrics=judgement.evaluation.metrics if judgement else {},
    )
    return write_bundle(spec.output, getattr(network, "module", network), tokenizer, info, run.storage)


class MetricsLog:
    """`metrics.jsonl` beside the checkpoints. Object stores cannot append, so it is rewritten whole."""

    def __init__(self, run: PreparedTraining) -> None:
        self._uri = join_uri(run.spec.work_uri, run.run_name, "metrics.jsonl")
        self._storage = run.storage
        self._lines: list[str] = []

    def resume(self) -> None:
        """Keep what earlier attempts logged; steps done again are logged again with their later figures."""
        self._lines = (self._storage.read_bytes(self._uri) or b"").decode().splitlines()

    def add(self, status: TrainingStatus) -> None:
        """Log a status; written at once when it ends an epoch."""
        self._lines = [line for line in self._lines if json.loads(line)["step"] < status.step]
        self._lines.append(json.dumps(status_record(status)))
        if status.validation is not None:
            self.flush()

    def flush(self) -> None:
        """Write what was logged."""
        self._storage.write_bytes(self._uri, ("\n".join(self._lines) + "\n").encode())
