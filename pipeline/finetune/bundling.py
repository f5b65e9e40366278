"""A pretrained encoder, as it is -> a bundle for embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import AutoConfig

from pipeline.encoder.bundle import (
    BundleInfo,
    check_bundle_target,
    fingerprint_model,
    resolve_encoder,
    write_bundle,
)
from pipeline.encoder.checks import check_encoder, check_segments
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import load_network
from pipeline.encoder.sentence import settle_use
from pipeline.errors import Checks
from pipeline.finetune.ready import check_ready, learned_of, read_own
from pipeline.finetune.spec import BundleSpec
from pipeline.registry.resolve import resolve_model
from pipeline.storage import Storage
from pipeline.tasks import check_long_text, find_task
from pipeline.tasks.base import Learned, Task


@dataclass(frozen=True)
class PreparedBundle:
    """What is known of a bundle before its weights are loaded.

    Attributes:
        spec: As it was given, with what it leaves out as the model's directory says.
        task: What it is for.
        encoder: The model's directory.
        learned: Labels and options of its head.
        inputs: The column of each input, as a bundle says; else called as the input is.
    """

    spec: BundleSpec
    task: Task
    encoder: str
    learned: Learned
    inputs: Mapping[str, str]


def prepare_bundle(spec: BundleSpec, source: str) -> PreparedBundle:
    """Check task, model and output. Writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        SpecError: the task is unknown, none that a checkpoint has a head for, or of pairs that are to be windowed.
        ModelError: the encoder or its `bundle.json` cannot be used, or its head is of another task.
        OutputTakenError: the output holds something else.
    """
    storage, checks, task = Storage(spec.storage), Checks(), find_task(spec.task, source)
    checks.run(lambda: check_ready(task, source))
    checks.run(lambda: check_long_text(task, spec.long_text, source))
    encoder = checks.run(lambda: resolve_encoder(resolve_model(spec.model, spec.registry, storage), storage))
    checks.run(lambda: check_bundle_target(spec.output, storage))
    checks.raise_failures()
    assert encoder is not None
    spec, tokenizer = settle_use(spec, encoder, is_strict=task.head_class == "AutoModel"), load_tokenizer(encoder)
    check_encoder(encoder, task.head_class, spec.max_length, tokenizer)
    if len(task.inputs) > 1:
        check_segments(encoder, tokenizer)
    config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    own = read_own(task, encoder)
    inputs = {name: name for name in task.inputs} if own is None else own.inputs
    return PreparedBundle(spec, task, encoder, learned_of(task, config, encoder, own), inputs)


def bundle_encoder(spec: BundleSpec, source: str = "spec") -> BundleInfo:
    """Write an encoder, its head if the task has one, its tokenizer and how to embed with it as a bundle.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: `prepare_bundle` refuses it, or the weights cannot be loaded.
    """
    prepared = prepare_bundle(spec, source)
    spec, task, encoder, learned = prepared.spec, prepared.task, prepared.encoder, prepared.learned
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of a pooler that the checkpoint lacks: the same bundle each time
        network = load_network(encoder, task.head_class, is_ready=task.head_class != "AutoModel")
    recipe = json.dumps(spec.encoder_use(), sort_keys=True)
    fingerprint = hashlib.sha256((recipe + fingerprint_model(encoder)).encode()).hexdigest()
    info = BundleInfo(
        task=task.name,
        inputs=dict(prepared.inputs),
        base_model=spec.model,
        data_fingerprint="",
        run_fingerprint=fingerprint,
        labels=learned.labels,
        options=dict(learned.options),
        metrics={},
        **spec.encoder_use(),
    )
    return write_bundle(spec.output, network, load_tokenizer(encoder), info, Storage(spec.storage))
