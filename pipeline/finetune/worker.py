"""One rank's work apart from the loop: load, log, write the bundle. Knows nothing of Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.bundle import BundleInfo, write_bundle
from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.masking import HidingRules
from pipeline.encoder.model import load_trainable
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.pairing import PairingRules, sentence_ends
from pipeline.encoder.tokenize import Padding, TextTokenizer
from pipeline.finetune.classes import make_emphasis, weigh_rows
from pipeline.finetune.fitted import can_be_fitted, fit_new_heads, is_to_fit
from pipeline.finetune.head_labels import match_labels, read_labels
from pipeline.finetune.labelled import read_split
from pipeline.finetune.layers import compile_layers, freeze_layers, recompute_layers, reset_layers
from pipeline.finetune.linear_head import fit_linear_head
from pipeline.finetune.loop import Judgements, LoopHooks, LoopJob, ValidationRows, train
from pipeline.finetune.lora import add_adapters, merge_adapters
from pipeline.finetune.mean_layer import settle_reading
from pipeline.finetune.parallel import check_precision, spread_network
from pipeline.finetune.plan import TrainingPlan
from pipeline.finetune.prepare import PreparedHead, PreparedTraining
from pipeline.finetune.status import TrainingStatus, status_record
from pipeline.finetune.step import StepContext, TrainingHead
from pipeline.finetune.token_cache import TokenCacheJob, cache_file, encode_inputs, load_tokens, locate_rows
from pipeline.finetune.vocabulary import narrow_vocabulary, widen_vocabulary
from pipeline.tasks.base import Examples


def token_cache_job(run: PreparedTraining, head: PreparedHead, num_threads: int) -> TokenCacheJob:
    """What a worker that tokenises a head's training split is told."""
    return TokenCacheJob(
        run.model,
        head.token_options,
        head.task.name,
        head.train.learned,
        head.train,
        head.cache_uri,
        num_threads,
        run.storage,
    )


def build_job(run: PreparedTraining, rank: int, world_size: int) -> tuple[LoopJob, Any]:
    """Load data, tokenizer and network on one rank; new heads are seeded, so they are equal on all ranks.

    Returns:
        The loop's job, and the tokenizer for the bundles.

    Raises:
        ComputeError: this machine cannot do what `compute` asks for.
    """
    spec, recipe = run.spec, run.spec.training
    runtime = choose_runtime(spec.compute)
    torch.manual_seed(recipe.seed)
    encoder = run.encoder
    loaded = {head.name: _load_head(run, encoder, head) for head in run.heads}
    unfitted = tuple(head.name for head in run.heads if is_to_fit(head.task, *loaded[head.name], recipe.head_start))
    networks = {name: network for name, (network, _) in loaded.items()}
    network: Any = JoinedHeads(networks, EmbeddingOptions(spec.pooling, spec.normalize))
    runtime = runtime.suited_to(network.encoder.config)
    reset_layers(network, recipe.reset_layers)
    if recipe.freeze_layers is not None:
        freeze_layers(network, recipe.freeze_layers)
    if recipe.lora is not None:
        add_adapters(network, recipe.lora)
    if recipe.gradient_checkpointing:
        recompute_layers(network)
    if spec.compute.compile:
        compile_layers(network, runtime.device)
    check_precision(spec.compute.data_parallel, runtime.autocast_dtype)
    network = network.to(runtime.device)
    tokenizer = load_tokenizer(encoder)
    padding = Padding.of(tokenizer)
    heads = tuple(_training_head(run, head, tokenizer) for head in run.heads)
    if recipe.method == "finetune":
        narrow_vocabulary(network, heads, padding.pad_id)
    network = spread_network(network, runtime.device, world_size, spec.compute.data_parallel)
    context = StepContext(network, heads, runtime, recipe, padding, world_size, scaler=runtime.make_scaler())
    labels = {head.name: head.train.learned.labels for head in run.heads}
    plan = plan_run(context, labels)
    validation = {
        head.name: _validation_rows(run, head, load_tokenizer(encoder), slice(rank, None, world_size))
        for head in run.heads
        if head.validation is not None
    }
    learned = {head.name: head.train.learned for head in run.heads}
    locate = partial(_locate, run, context)
    job = LoopJob(context, plan, validation, learned, spec.checkpoint, run.fingerprint, rank, locate, unfitted)
    return job, tokenizer


def _load_head(run: PreparedTraining, encoder: str, head: PreparedHead) -> tuple[Any, frozenset[str]]:
    """A head's network, and the names of those of its weights that are new."""
    learned = head.train.learned
    network, new_weights = load_trainable(encoder, head.task.head_class, False, **head.task.head_config(learned))
    if learned.labels and can_be_fitted(head.task):
        new_weights = match_labels(network, new_weights, read_labels(encoder), learned.labels)
    return network, settle_reading(run.spec, head.task, network, new_weights, head.train.num_rows)


def learn(job: LoopJob, hooks: LoopHooks) -> Judgements:
    """Train as the recipe says; the network holds the result, without adapters."""
    recipe = job.context.config
    if recipe.method == "linear_head":
        return fit_linear_head(job, hooks)
    remarks = fit_new_heads(job.context, job.unfitted, job.rank) if hooks.restore is None else ()
    judgements = train(job, hooks, remarks)
    widen_vocabulary(job.context.joined)
    if recipe.lora is not None:
        merge_adapters(job.context.joined)
    return judgements


def _locate(run: PreparedTraining, context: StepContext, rows: npt.NDArray[np.int64]) -> list[str]:
    """Where training rows stand in the data, head by head."""
    places = []
    for head, own in zip(run.heads, context.split(rows), strict=True):
        files = [cache_file(head.cache_uri, shard) for shard in head.train.shards]
        places += locate_rows(files, own.tolist(), len(head.train.texts), run.storage) if len(own) else []
    return places


def plan_run(context: StepContext, labels: Mapping[str, Sequence[str]]) -> TrainingPlan:
    """Every batch of a run, from its recipe and its rows; `labels` by head."""
    recipe, lengths = context.config, context.row_lengths
    weights = None
    if recipe.sampling is not None:
        weights = np.concatenate([weigh_rows(head.data, labels[head.name], recipe.sampling) for head in context.heads])
    return TrainingPlan(
        len(lengths),
        recipe.batch_rows,
        recipe.epochs,
        recipe.min_steps,
        recipe.seed,
        recipe.batch_tokens,
        lengths,
        weights,
    )


def _training_head(run: PreparedTraining, head: PreparedHead, tokenizer: Any) -> TrainingHead:
    files = [cache_file(head.cache_uri, shard) for shard in head.train.shards]
    data = load_tokens(files, len(head.train.texts), run.storage)
    emphasis = make_emphasis(data, head.task, head.train.learned.labels, run.spec.training)
    hiding = pairing = None
    if head.task.hides_tokens:
        masking, seed = run.spec.training.masking, run.spec.training.seed
        hiding = HidingRules.of(tokenizer, masking.share, masking.whole_words, seed)
    if head.task.pairs_windows:
        words = data.targets.values.astype(np.int64)
        pairing = PairingRules(data.rows, words, sentence_ends(tokenizer), run.spec.max_length, run.spec.training.seed)
    return TrainingHead(head.name, head.task, data, head.spec.weight, emphasis, hiding, pairing)


def _validation_rows(run: PreparedTraining, head: PreparedHead, tokenizer: Any, mine: slice) -> ValidationRows:
    """This rank's part of the usable rows of validation, tokenised by a tokenizer of its own: it carries truncation."""
    split = head.validation
    assert split is not None
    usable = read_split(split, head.task, head.train.learned, head.spec.data.max_bad_fraction, run.storage)
    own = pa.array(np.arange(len(usable.targets))[mine])
    texts = tuple(column.take(own) for column in usable.texts)
    inputs = encode_inputs(texts, split.texts, TextTokenizer(tokenizer, head.token_options))
    return ValidationRows(Examples(texts, inputs[-1], split.are_words), tuple(inputs), usable.targets.take(own))


def write_result(
    run: PreparedTraining, joined: JoinedHeads, tokenizer: Any, judgements: Judgements
) -> dict[str, BundleInfo]:
    """Write each head's bundle; on rank 0 only.

    Args:
        run: The run.
        joined: The trained networks.
        tokenizer: Their tokenizer.
        judgements: Figures and tuned thresholds, of heads that have validation rows.
    """
    written = {}
    for head in run.heads:
        judgement = judgements.get(head.name)
        learned = judgement.learned if judgement else head.train.learned
        info = BundleInfo(
            task=head.task.bundled_as,
            inputs=head.inputs,
            labels=learned.labels,
            options=dict(learned.options),
            base_model=run.spec.model,
            data_fingerprint=run.data_fingerprint,
            run_fingerprint=run.fingerprint,
            metrics=judgement.evaluation.metrics if judgement else {},
            **run.spec.encoder_use(),
        )
        target = run.spec.output_of(head.name)
        written[head.name] = write_bundle(target, joined.network(head.name), tokenizer, info, run.storage)
    return written


class MetricsLog:
    """`metrics.jsonl` beside the checkpoints. Object stores cannot append, so it is rewritten whole."""

    def __init__(self, run: PreparedTraining) -> None:
        self._uri = run.metrics_uri
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
