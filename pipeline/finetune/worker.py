"""One rank's work apart from the loop: load, log, write the bundle. Knows nothing of Ray."""

from __future__ import annotations

import json
from typing import Any

import torch

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.bundle import BundleInfo, write_bundle
from pipeline.encoder.model import load_network, load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer
from pipeline.finetune.data import cache_file, load_tokens
from pipeline.finetune.loop import LoopJob, TrainingStatus, status_record
from pipeline.finetune.plan import TrainingPlan
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.step import StepContext
from pipeline.tasks import find_task
from pipeline.tasks.base import Evaluation
from pipeline.uris import join_uri


def build_job(run: PreparedTraining, rank: int, world_size: int) -> tuple[LoopJob, Any]:
    """Load data, tokenizer and network on one rank; the new head is seeded, so it is equal on all ranks.

    Returns:
        The loop's job, and the tokenizer for the bundle.
    """
    spec, storage = run.spec, run.storage
    task = find_task(spec.task, "spec")
    labels = run.train.labels
    data = load_tokens([cache_file(run.cache_uri, s) for s in run.train.shards], task, labels, storage)
    held_out = [cache_file(run.cache_uri, s) for s in run.validation.shards] if run.validation else []
    validation = load_tokens(held_out, task, labels, storage) if held_out else None
    tokenizer = load_tokenizer(run.encoder)
    runtime = choose_runtime(spec.compute)
    torch.manual_seed(spec.training.seed)
    names = dict(enumerate(labels))
    network: Any = load_network(
        run.encoder, task.head_class, id2label=names, label2id={name: index for index, name in names.items()}
    ).to(runtime.device)
    if world_size > 1:
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        network = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    pad_id = TextTokenizer(tokenizer, spec.training.max_length).pad_id
    context = StepContext(network, task, data, runtime, spec.training, pad_id, world_size)
    recipe = spec.training
    plan = TrainingPlan(len(data), recipe.batch_rows, recipe.epochs, recipe.min_steps, recipe.seed)
    return LoopJob(context, plan, validation, labels, spec.checkpoint, run.fingerprint, rank), tokenizer


def write_result(run: PreparedTraining, job: LoopJob, tokenizer: Any, evaluation: Evaluation | None) -> None:
    """Write the bundle; on rank 0 only."""
    spec = run.spec
    info = BundleInfo(
        task=spec.task,
        inputs=dict(zip(job.context.task.inputs, run.train.columns.inputs, strict=True)),
        labels=run.train.labels,
        max_length=spec.training.max_length,
        pooling=spec.pooling,
        normalize=spec.normalize,
        base_model=spec.model,
        data_fingerprint=run.data_fingerprint,
        run_fingerprint=run.fingerprint,
        metrics=evaluation.metrics if evaluation else {},
    )
    network = getattr(job.context.network, "module", job.context.network)
    write_bundle(spec.output, network, tokenizer, info, run.storage)


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
