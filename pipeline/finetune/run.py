"""The training plane on one screen: check (no Ray) -> tokenise once -> train under TorchTrainer -> bundle.

The only file that imports ray.train.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
    FailureConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train import CheckpointConfig as RayCheckpointConfig

from pipeline.corpus.reader import Columns
from pipeline.corpus.stream import PoolOptions, find_cause, stream_shards
from pipeline.encoder.attention import choose_runtime, set_threads
from pipeline.encoder.bundle import (
    BundleInfo,
    check_bundle_target,
    fingerprint_model,
    read_bundle_info,
    resolve_encoder,
    write_bundle,
)
from pipeline.encoder.model import load_network, load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer
from pipeline.errors import BertmillError, CorpusError, ModelError, TrainingError
from pipeline.finetune.data import (
    LabelledSet,
    TokenCacheJob,
    cache_file,
    check_labels,
    load_tokens,
    missing_shards,
    open_split,
)
from pipeline.finetune.loop import LoopHooks, LoopJob, TrainingStatus, status_record, train
from pipeline.finetune.plan import TrainingPlan
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.step import StepContext
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.telemetry import ProgressDisplay
from pipeline.uris import join_uri

_POLL_S = 1.0


@dataclass(frozen=True)
class PreparedTraining:
    """Everything known before Ray starts."""

    spec: FinetuneSpec
    encoder: str
    train: LabelledSet
    validation: LabelledSet | None
    fingerprint: str
    data_fingerprint: str

    @property
    def storage(self) -> Storage:
        """The spec's stores."""
        return Storage(self.spec.storage)

    @property
    def cache_uri(self) -> str:
        """Where this tokenizer's ids for these columns are kept."""
        key = [fingerprint_model(self.encoder, tokenizer_only=True), self.spec.training.max_length]
        columns = [list(self.train.columns.inputs), list(self.train.columns.kept)]
        digest = hashlib.sha256(json.dumps([key, columns]).encode()).hexdigest()[:32]
        return join_uri(self.spec.work_uri, "token_cache", digest)

    @property
    def run_name(self) -> str:
        """Derives from the spec and the data: another recipe never resumes this run's checkpoints."""
        return f"run-{self.fingerprint[:16]}"

    def finished_bundle(self) -> BundleInfo | None:
        """The bundle this very run has already written, if it has."""
        try:
            info = read_bundle_info(self.spec.output, self.storage)
        except ModelError:
            return None
        return info if info.run_fingerprint == self.fingerprint else None


def prepare_training(spec: FinetuneSpec, source: str) -> PreparedTraining:
    """Check model, data, labels and output. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage = Storage(spec.storage)
    task = find_task(spec.task, source)
    encoder = resolve_encoder(spec.model, storage)
    check_bundle_target(spec.output, storage)
    inputs = tuple(spec.data.inputs.get(name, name) for name in task.inputs)
    columns = Columns(inputs, (spec.data.label or task.target,))
    train_set = open_split(spec.data.train, task, columns, storage)
    validation = open_split(spec.data.validation, task, columns, storage) if spec.data.validation else None
    check_labels(train_set, validation, source)
    data_parts = [train_set.fingerprint, validation.fingerprint if validation else ""]
    data_fingerprint = hashlib.sha256("".join(data_parts).encode()).hexdigest()
    fingerprint = spec.fingerprint(data_fingerprint, fingerprint_model(encoder))
    return PreparedTraining(spec, encoder, train_set, validation, fingerprint, data_fingerprint)


def run_training(run: PreparedTraining, pool: PoolOptions) -> BundleInfo:
    """Tokenise what is not cached, train, and write the bundle; needs a running Ray.

    Raises:
        TrainingError: training stopped, or lost its workers too often.
    """
    tokenize_splits(run, pool)
    board = ray.remote(num_cpus=0)(_Board).remote()
    filesystem, path = run.storage.open_arrow(run.spec.work_uri)
    if hasattr(filesystem, "create_dir"):
        filesystem.create_dir(path, recursive=True)
    config = run.spec.checkpoint
    trainer = ray.train.torch.TorchTrainer(
        _train_on_worker,
        train_loop_config={"run": run, "board": board, "threads": max(1, int(pool.cpus_per_worker))},
        scaling_config=ScalingConfig(
            num_workers=pool.num_workers,
            use_gpu=pool.gpus_per_worker > 0,
            resources_per_worker={"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker},
        ),
        run_config=RunConfig(
            name=run.run_name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=RayCheckpointConfig(num_to_keep=config.keep),
        ),
    )
    with _watched(board, run.spec.training.epochs):
        _fit(trainer)
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise failure
    return read_bundle_info(run.spec.output, run.storage)


def tokenize_splits(run: PreparedTraining, pool: PoolOptions) -> None:
    """Fill the token cache.

    Raises:
        CorpusError: more rows lack usable text or a label than the spec allows.
    """
    for split in (run.train, run.validation):
        pending = missing_shards(split, run.cache_uri, run.storage) if split else []
        if split is None or not pending:
            continue
        job = TokenCacheJob(
            run.encoder,
            run.spec.training.max_length,
            split.columns,
            split.options,
            run.cache_uri,
            max(1, int(pool.cpus_per_worker)),
            run.storage,
        )
        counts = {"num_rows": 0, "num_bad_rows": 0}
        with ProgressDisplay("tokenising", sum(shard.num_rows for shard in pending), "rows") as display:
            for receipt in stream_shards(pending, job, replace(pool, gpus_per_worker=0)):
                for name in counts:
                    counts[name] += sum(receipt[name].to_pylist())
                display.update(sum(counts.values()), f"{counts['num_bad_rows']} without usable text or label")
        limit = run.spec.data.max_bad_fraction
        if counts["num_bad_rows"] > limit * sum(counts.values()):
            raise CorpusError(
                f"{counts['num_bad_rows']} of {sum(counts.values())} labelled rows have no usable text or label, "
                f"more than data.max_bad_fraction {limit}",
                "mend the data, or raise data.max_bad_fraction",
            )


class _Board:
    """A tiny actor through which rank 0 tells the driver how far it is, and why it stopped."""

    def __init__(self) -> None:
        self._status: TrainingStatus | None = None
        self._failure: BertmillError | None = None

    def post(self, status: TrainingStatus) -> None:
        self._status = status

    def fail(self, failure: BertmillError) -> None:
        self._failure = failure

    def status(self) -> TrainingStatus | None:
        return self._status

    def failure(self) -> BertmillError | None:
        return self._failure


class _watched:
    """Shows the board's status on the driver for as long as the block runs."""

    def __init__(self, board: Any, epochs: int) -> None:
        self._board, self._epochs = board, epochs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        while (status := self._read()) is None:
            if self._stop.wait(_POLL_S):
                return
        with ProgressDisplay("training", status.num_steps, "steps") as display:
            while not self._stop.wait(_POLL_S):
                status = self._read() or status
                display.update(status.step, _note(status))
            status = self._read() or status
            display.update(status.step, _note(status))

    def _read(self) -> TrainingStatus | None:
        try:
            status: TrainingStatus | None = ray.get(self._board.status.remote(), timeout=10)
        except ray.exceptions.RayError:
            return None
        return status


def _note(status: TrainingStatus) -> str:
    figures = "".join(f", {name} {value:.3f}" for name, value in (status.validation or {}).items() if name != "loss")
    return (
        f"epoch {status.epoch + 1}, loss {status.loss:.3f}, lr {status.learning_rate:.1e}, "
        f"{status.tokens_per_s:,.0f} tokens/s, {status.padding_share:.0%} padding{figures}"
    )


def _fit(trainer: Any) -> None:
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        trainer.fit()
    except Exception as error:
        cause = find_cause(error)
        if cause is not None:
            raise cause from None
        lines = str(error).strip().splitlines()
        raise TrainingError(
            f"training failed: {lines[-1] if lines else type(error).__name__}",
            "run the same command again to go on from the last checkpoint; --debug shows the whole traceback",
        ) from error


def _train_on_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs. Errors that another attempt cannot mend end it instead of a retry."""
    try:
        _train_rank(config["run"], config["board"], config["threads"])
    except (TrainingError, CorpusError, ModelError) as failure:
        ray.get(config["board"].fail.remote(failure))


def _train_rank(run: PreparedTraining, board: Any, threads: int) -> None:
    set_threads(threads)
    spec, storage = run.spec, run.storage
    ranks = ray.train.get_context()
    job, tokenizer = _build_job(run, ranks.get_world_rank(), ranks.get_world_size())
    metrics_uri = join_uri(spec.work_uri, run.run_name, "metrics.jsonl")
    log = _MetricsLog(metrics_uri, storage, board)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        evaluation = train(job, LoopHooks(None, _saver(job.rank), log.add))
    else:
        with checkpoint.as_directory() as directory:
            log.resume()
            evaluation = train(job, LoopHooks(Path(directory), _saver(job.rank), log.add))
    if job.rank == 0:
        log.flush()
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
        write_bundle(spec.output, network, tokenizer, info, storage)


def _build_job(run: PreparedTraining, rank: int, world_size: int) -> tuple[LoopJob, Any]:
    """Load data, tokenizer and network on this rank; the new head is seeded, so it is equal on all ranks."""
    import torch

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
        run.encoder, task.auto_class, id2label=names, label2id={name: index for index, name in names.items()}
    ).to(runtime.device)
    if world_size > 1:
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        network = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    pad_id = TextTokenizer(tokenizer, spec.training.max_length).pad_id
    context = StepContext(network, task, data, runtime, spec.training, pad_id, world_size)
    recipe = spec.training
    plan = TrainingPlan(len(data), recipe.batch_rows, recipe.epochs, recipe.min_steps, recipe.seed)
    return LoopJob(context, plan, validation, labels, spec.checkpoint, run.fingerprint, rank), tokenizer


def _saver(rank: int) -> Callable[[Callable[[Path], None]], None]:
    """Reports a checkpoint to Ray Train: rank 0 writes it, its upload runs beside the next steps."""

    def save(write: Callable[[Path], None]) -> None:
        checkpoint = None
        if rank == 0:
            directory = tempfile.mkdtemp(prefix="bertmill-checkpoint-")
            write(Path(directory))
            checkpoint = Checkpoint.from_directory(directory)
        ray.train.report(
            {},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    return save


class _MetricsLog:
    """`metrics.jsonl` beside the checkpoints, and the driver's board. Object stores cannot append: it is rewritten."""

    def __init__(self, uri: str, storage: Storage, board: Any) -> None:
        self._uri, self._storage, self._board = uri, storage, board
        self._lines: list[str] = []

    def resume(self) -> None:
        """Keep what earlier attempts logged; steps done again are logged again with their later figures."""
        self._lines = (self._storage.read_bytes(self._uri) or b"").decode().splitlines()

    def add(self, status: TrainingStatus) -> None:
        """Log a status on rank 0."""
        self._lines = [line for line in self._lines if json.loads(line)["step"] < status.step]
        self._lines.append(json.dumps(status_record(status)))
        self._board.post.remote(status)
        if status.validation is not None:
            self.flush()

    def flush(self) -> None:
        """Write what was logged."""
        self._storage.write_bytes(self._uri, ("\n".join(self._lines) + "\n").encode())
