"""An encoder that was never trained, with a tokenizer of its own: a directory that training starts from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from pipeline.encoder.loading import first_line
from pipeline.encoder.new_tokenizer import Vocabulary, train_tokenizer
from pipeline.errors import Problem, SpecError
from pipeline.finetune.labelled import LabelledSet, LabelTarget, open_split, read_usable
from pipeline.finetune.pretrain_spec import PretrainSpec, ScratchConfig
from pipeline.storage import Storage
from pipeline.tasks import TASKS
from pipeline.tasks.base import Learned
from pipeline.uris import join_uri

_CONFIG_FILE = "config.json"
_OF_THE_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_TASK = TASKS["masked-lm"]


def start_from_scratch(spec: PretrainSpec, scratch: ScratchConfig, source: str) -> str:
    """Train the tokenizer and draw the weights, unless an earlier attempt of the same spec has.

    Args:
        spec: The spec.
        scratch: Its `model`.
        source: The spec's name, for errors.

    Returns:
        URI of the directory, below the run's work.

    Raises:
        SpecError: the configuration is not one that transformers knows.
        CorpusError: the texts cannot be read.
    """
    _check_config(scratch, source)
    storage = Storage(spec.storage)
    split = open_split(spec.data.train, _TASK, ((spec.data.text,),), LabelTarget(None), storage)
    seed = spec.training.seed
    key = json.dumps([scratch.model_dump(), split.fingerprint, seed, spec.max_length], sort_keys=True)
    work = spec.as_training("", source).work_uri
    target = join_uri(work, "scratch", hashlib.sha256(key.encode()).hexdigest()[:32])
    if storage.read_bytes(join_uri(target, _CONFIG_FILE)) is not None:
        return target
    wanted = scratch.tokenizer
    config = AutoConfig.for_model(**scratch.config)
    tokenizer = train_tokenizer(
        islice(_sample_texts(split, seed, storage), wanted.sample_rows),
        Vocabulary(wanted.kind, wanted.vocab_size, wanted.lowercase),
        spec.max_length,
        with_types=getattr(config, "type_vocab_size", 0) > 1,
    )
    _write(target, _draw_network(scratch, tokenizer, seed), tokenizer, storage)
    return target


def _check_config(scratch: ScratchConfig, source: str) -> None:
    """Known family, known fields; transformers itself takes any."""
    fields = dict(scratch.config)
    known_types = sorted(kind.model_type for kind in AutoModelForMaskedLM._model_mapping)
    model_type = fields.pop("model_type", None)
    if model_type not in known_types:
        problem = Problem("model.config.model_type", f"holds {model_type!r}", f"one of: {', '.join(known_types)}")
        raise SpecError(source, (problem,))
    usual = AutoConfig.for_model(model_type)
    unknown = [name for name in fields if not hasattr(usual, name)]
    problems = [
        Problem(f"model.config.{name}", f"is no field of {type(usual).__name__}", "a field that it has")
        for name in unknown
    ]
    problems += [
        Problem(f"model.config.{name}", "is the tokenizer's to say", "no such field; see model.tokenizer")
        for name in _OF_THE_TOKENIZER
        if name in fields
    ]
    problems = problems or _try_config(scratch)
    if problems:
        raise SpecError(source, tuple(problems))


def _try_config(scratch: ScratchConfig) -> list[Problem]:
    """Values that transformers cannot build a network from; it says so in errors of many kinds."""
    try:
        config = AutoConfig.for_model(**scratch.config)
        with torch.device("meta"):
            AutoModelForMaskedLM.from_config(config)
    except Exception as error:
        return [Problem("model.config", first_line(error), "a configuration that transformers can build")]
    if config.num_hidden_layers < 1:
        return [Problem("model.config", f"has {config.num_hidden_layers} layers", "one or more")]
    return []


def _sample_texts(split: LabelledSet, seed: int, storage: Storage) -> Iterator[str]:
    """Usable texts, shard by shard in an order drawn by the seed."""
    for number in np.random.default_rng(seed).permutation(len(split.shards)):
        usable = read_usable(split.shards[number], split, _TASK, Learned(), storage)
        yield from usable.texts[0].to_pylist()


def _draw_network(scratch: ScratchConfig, tokenizer: Any, seed: int) -> Any:
    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    config = AutoConfig.for_model(**scratch.config, vocab_size=len(tokenizer), **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForMaskedLM.from_config(config)


def _write(target: str, network: Any, tokenizer: Any, storage: Storage) -> None:
    """The configuration last: where it is, everything is."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        network.save_pretrained(directory, safe_serialization=True)
        tokenizer.save_pretrained(directory)
        for path in sorted(directory.iterdir(), key=lambda path: path.name == _CONFIG_FILE):
            storage.upload(path, join_uri(target, path.name))
