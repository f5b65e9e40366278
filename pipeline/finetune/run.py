"""The training plane on one screen: check (no Ray) -> tokenise once -> train under TorchTrainer -> bundle.

The only file that imports ray.train.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
from ray.train import Checkpoint, CheckpointUploadMode, FailureConfig, RunConfig, ScalingConfig
from ray.train import CheckpointConfig as RayCheckpointConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import PoolOptions
from pipeline.corpus.stream import stream_shards
from pipeline.encoder.attention import set_threads
from pipeline.encoder.bundle import BundleInfo, read_bundle_info
from pipeline.errors import BertmillError, InterruptedRunError, TrainingError
from pipeline.finetune.board import Board, Failure, find_permanent
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob, Wish
from pipeline.finetune.prepare import PreparedHead, PreparedTraining
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.token_cache import check_cached, missing_shards
from pipeline.finetune.track import Tracker
from pipeline.finetune.training_report import write_training_report
from pipeline.finetune.worker import MetricsLog, build_job, learn, token_cache_job, write_result
from pipeline.telemetry import Meter, ProgressDisplay
from pipeline.tracing import span
from pipeline.waiting import wait_for

_POLL_S = 1.0
_TOGETHER_S = 3.0
_LOOK_EVERY_S = 0.1


@span("train")
def run_training(run: PreparedTraining, pool: PoolOptions) -> dict[str, BundleInfo]:
    """Tokenise what is not cached, train, and write each head's bundle; needs a running Ray.

    Raises:
        TrainingError: training stopped, or lost its workers too often.
    """
    for head in run.heads:
        tokenize_training(run, head, pool)
    board = _open_board()
    filesystem, path = run.storage.open_arrow(run.spec.work_uri)
    if hasattr(filesystem, "create_dir"):
        filesystem.create_dir(path, recursive=True)
    config = run.spec.checkpoint
    trainer = ray.train.torch.TorchTrainer(
        _train_on_worker,
        train_loop_config={"run": run, "board": board, "threads": pool.threads_per_worker},
        scaling_config=ScalingConfig(
            num_workers=pool.num_workers if pool.min_workers is None else (pool.min_workers, pool.num_workers),
            # A resize goes back to the last checkpoint: looked for as often as one is made, so that work gets on.
            elastic_resize_monitor_interval_s=config.every_s,
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
    with _Watch(board) as watch, _stopping_on_sigterm(watch):
        _fit(trainer, board)
    return {head.name: read_bundle_info(run.spec.output_of(head.name), run.storage) for head in run.heads}


@contextlib.contextmanager
def _stopping_on_sigterm(watch: _Watch) -> Iterator[None]:
    """Let SIGTERM ask the workers for a checkpoint and the end, and wait for both; a second one ends at once.

    So does the first while no worker has told anything yet: there may be none to hear of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def ask(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        if watch.has_begun():
            watch.ask_to_stop()
        else:
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is ask:
            signal.signal(signal.SIGTERM, before)


def tokenize_training(run: PreparedTraining, head: PreparedHead, pool: PoolOptions) -> None:
    """Fill a head's token cache with what it lacks. Validation is tokenised by the workers: it is read once a run.

    Raises:
        CorpusError: more rows lack usable text or a target than the spec allows.
    """
    pending = missing_shards(head.train, head.cache_uri, run.storage)
    if pending:
        job = token_cache_job(run, head, pool.threads_per_worker)
        meter = Meter()
        with ProgressDisplay("tokenising", sum(shard.num_rows for shard in pending), "rows") as display:
            for receipt in stream_shards(pending, job, replace(pool, gpus_per_worker=0)):
                meter.num_rows += sum(receipt["num_rows"].to_pylist())
                meter.num_tokens += sum(receipt["num_tokens"].to_pylist())
                display.update(meter.num_rows, meter.rates())
    check_cached(head.train, head.cache_uri, head.spec.data.max_bad_fraction, run.storage)


def _open_board() -> Any:
    """A board on the driver's node, where Ray Train's controller is too: it outlives every other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()


class _Watch:
    """Shows the board's status on the driver for as long as the block runs."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._stop = threading.Event()
        self._wants_end = threading.Event()
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def has_begun(self) -> bool:
        """Whether a worker has told how far it is."""
        return self._has_begun.is_set()

    def ask_to_stop(self) -> None:
        """Pass on that the workers are to save and end; safe within a signal handler."""
        self._wants_end.set()

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        while (status := self._read()) is None:
            if self._stop.wait(_LOOK_EVERY_S):  # until then a SIGTERM ends all at once, with nothing saved
                return
        self._has_begun.set()
        with ProgressDisplay("training", status.num_steps, "steps", done=status.step) as display:
            _tell(display, status)
            while not self._stop.wait(_POLL_S):
                _tell(display, self._read())
            _tell(display, self._read())

    def _read(self) -> TrainingStatus | None:
        try:
            if self._wants_end.is_set():
                ray.get(self._board.stop.remote(), timeout=10)
            status: TrainingStatus | None = ray.get(self._board.read.remote(), timeout=10)
        except ray.exceptions.RayError:
            return None
        return status


def _tell(display: ProgressDisplay, status: TrainingStatus | None) -> None:
    if status is None:
        return
    for remark in status.remarks or ():
        display.say(f"by step {status.step:,}: {remark}")
    display.update(status.step, _note(status))


def _note(status: TrainingStatus) -> str:
    figures = "".join(
        f", {name} {value:.3f}" for name, value in (status.validation or {}).items() if not name.endswith("loss")
    )
    workers = f", {status.num_workers} workers" if status.num_workers > 1 else ""
    return (
        f"epoch {status.epoch + 1}, loss {status.loss:.3f}, lr {status.learning_rate:.1e}, "
        f"{status.tokens_per_s:,.0f} tokens/s, {status.padding_share:.0%} padding{workers}{figures}"
    )


def _fit(trainer: Any, board: Any) -> None:
    """Wait for the end; what the board was told goes before what Ray makes of it."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    lost: Exception | None = None
    try:
        wait_for(trainer.fit)
    except Exception as error:
        lost = error
    failure: Failure | None = ray.get(board.failure.remote())
    if failure is not None:
        raise failure.error from RuntimeError(f"on a worker:\n{failure.trace}")
    if lost is not None:
        cause = _find_cause(lost)
        if cause is not None:
            raise cause from None
        lines = str(lost).strip().splitlines()
        raise TrainingError(
            f"training failed: {lines[-1] if lines else type(lost).__name__}",
            "run the same command again to go on from the last checkpoint; --debug shows the whole traceback",
        ) from lost


def _find_cause(error: BaseException) -> BertmillError | None:
    """The BertmillError inside Ray's wrappers, if there is one."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, BertmillError) and type(current).__module__ == BertmillError.__module__:
            return current
        seen.add(id(current))
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        pending += getattr(current, "worker_failures", {}).values()
    return None


def _train_on_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs. Errors that another attempt cannot mend end the run instead of a retry."""
    board, rank = config["board"], ray.train.get_context().get_world_rank()
    if not ray.get(board.enter.remote(rank)):
        return
    failure = None
    try:
        _train_rank(config["run"], board, config["threads"])
    except Exception as error:
        failure = find_permanent(error, rank)
        if failure is None:
            raise
    finally:
        ray.get(board.leave.remote(rank, failure))
    if failure is not None and not isinstance(failure.error, InterruptedRunError):
        _end_others(board, failure.error)


def _end_others(board: Any, failure: BertmillError) -> None:
    """Return once every rank has ended, as most failures end all at one step; else have Ray Train end the others.

    They wait for this rank in an exchange, for the half hour that torch allows. Raising costs one start of workers, who
    find on the board that there is nothing to do.
    """
    deadline_s = time.monotonic() + _TOGETHER_S
    while ray.get(board.num_at_work.remote()):
        if time.monotonic() > deadline_s:
            raise failure
        time.sleep(_LOOK_EVERY_S)


def _train_rank(run: PreparedTraining, board: Any, threads: int) -> None:
    set_threads(threads)
    ranks = ray.train.get_context()
    job, tokenizer = build_job(run, ranks.get_world_rank(), ranks.get_world_size())
    with Tracker(run) as tracker:
        judgements = _learn(run, job, board, tracker)
    if job.rank == 0:
        write_result(run, job.context.joined, tokenizer, judgements)
        write_training_report(run, job, judgements)


def _learn(run: PreparedTraining, job: LoopJob, board: Any, tracker: Tracker) -> Judgements:
    log = MetricsLog(run)

    def report(status: TrainingStatus) -> None:
        log.add(status)
        tracker.add(status)
        board.post.remote(status)

    save_state = _saver(job.rank)

    def save(write: Callable[[Path], None]) -> None:
        save_state(write)
        if job.rank == 0:
            log.flush()  # what was logged before a checkpoint is not logged again

    hooks = LoopHooks(None, save, report, _wisher(board))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        judgements = learn(job, hooks)
    else:
        log.resume()
        with checkpoint.as_directory() as directory:
            judgements = learn(job, replace(hooks, restore=Path(directory)))
    if job.rank == 0:
        log.flush()
    return judgements


def _wisher(board: Any) -> Callable[[], Wish]:
    """Asks the driver, and Ray for nodes that are about to be taken away; saves once for each such notice."""
    known: set[str] = set()

    def wish() -> Wish:
        is_rank_0 = ray.train.get_context().get_world_rank() == 0
        is_to_stop = ray.train.collective.broadcast_from_rank_zero(is_rank_0 and ray.get(board.is_to_stop.remote()))
        notice = ray.train.get_preemption_info()  # every rank gets the same
        is_news = notice is not None and str(notice) not in known
        known.add(str(notice))
        return Wish.STOP if is_to_stop else Wish.SAVE if is_news else Wish.GO_ON

    return wish


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
