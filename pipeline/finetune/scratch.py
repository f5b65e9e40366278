"""An encoder that was never trained, with a tokenizer of its own: a directory that training starts from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from pipeline.encoder.checks import check_encoder
from pipeline.encoder.loading import quiet_transformers
from pipeline.encoder.new_tokenizer import Vocabulary, train_tokenizer
from pipeline.errors import ModelError, Problem, SpecError, first_line
from pipeline.finetune.labelled import LabelledSet, LabelTarget, open_split, read_usable
from pipeline.finetune.pretrain_spec import PretrainSpec, ScratchConfig
from pipeline.storage import Storage
from pipeline.tasks import TASKS
from pipeline.tasks.base import Learned
from pipeline.uris import join_uri

_CONFIG_FILE = "config.json"
_OF_THE_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_TASK = TASKS["masked-lm"]
_SHORTEST = 8  # tokens that any window has


def start_from_scratch(spec: PretrainSpec, scratch: ScratchConfig, source: str) -> str:
    """Train the tokenizer and draw the weights, unless an earlier attempt of the same spec has.

    Args:
        spec: The spec.
        scratch: Its `model`.
        source: The spec's name, for errors.

    Returns:
        URI of the directory, below the run's work.

    Raises:
        SpecError: the configuration is not one that transformers knows, or not of an encoder that can be pretrained.
        CorpusError: the texts cannot be read.
    """
    quiet_transformers()
    _check_config(scratch, spec.max_length, source)
    storage = Storage(spec.storage)
    split = open_split(spec.data.train, _TASK, ((spec.data.text,),), LabelTarget(None), storage)
    seed = spec.training.seed
    key = json.dumps([scratch.model_dump(), split.fingerprint, seed, spec.max_length], sort_keys=True)
    work = spec.as_training("", source).work_uri
    target = join_uri(work, "scratch", hashlib.sha256(key.encode()).hexdigest()[:32])
    if storage.read_bytes(join_uri(target, _CONFIG_FILE)) is not None:
        return target
    num_rows = scratch.tokenizer.sample_rows
    tokenizer = _train_tokenizer(
        scratch, lambda: islice(_sample_texts(split, seed, storage), num_rows), spec.max_length
    )
    _write(target, _draw_network(_config_of(scratch.config, tokenizer), seed), tokenizer, storage)
    return target


def _train_tokenizer(scratch: ScratchConfig, texts: Callable[[], Iterable[str]], max_length: int) -> Any:
    wanted = scratch.tokenizer
    with_types = getattr(AutoConfig.for_model(**scratch.config), "type_vocab_size", 0) > 1
    return train_tokenizer(texts, Vocabulary(wanted.kind, wanted.vocab_size, wanted.lowercase), max_length, with_types)


def _check_config(scratch: ScratchConfig, max_length: int, source: str) -> None:
    """Known family, known fields; transformers itself takes any."""
    fields = dict(scratch.config)
    model_type = fields.pop("model_type", None)
    if model_type not in _types_with_a_head():
        names = ", ".join(name for name in _types_with_a_head() if _can_be(name))
        raise SpecError(source, (Problem("model.config.model_type", f"holds {model_type!r}", f"one of: {names}"),))
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
    problems = problems or _try_config(scratch, max_length)
    if problems:
        raise SpecError(source, tuple(problems))


def _types_with_a_head() -> list[str]:
    return sorted(kind.model_type for kind in AutoModelForMaskedLM._model_mapping)


def _can_be(model_type: str) -> bool:
    """Whether a family's usual configuration is one that can be pretrained."""
    scratch = ScratchConfig(config={"model_type": model_type})
    tokenizer = _train_tokenizer(scratch, tuple, _SHORTEST)
    config = _config_of(scratch.config, tokenizer)
    return hasattr(config, "num_hidden_layers") and not _kind_problems(config, tokenizer, _SHORTEST)


def _try_config(scratch: ScratchConfig, max_length: int) -> list[Problem]:
    """Values that transformers cannot build a network from; it says so in errors of many kinds."""
    try:
        tokenizer = _train_tokenizer(scratch, tuple, max_length)
        config = _config_of(scratch.config, tokenizer)
        num_layers = config.num_hidden_layers
        problems = _kind_problems(config, tokenizer, max_length)
        if not problems and num_layers > 0:
            with torch.device("meta"):
                AutoModelForMaskedLM.from_config(config)
    except Exception as error:
        return [Problem("model.config", first_line(error), "a configuration that transformers can build")]
    if num_layers < 1:
        return [Problem("model.config", f"has {num_layers} layers", "one or more")]
    return problems


def _kind_problems(config: Any, tokenizer: Any, max_length: int) -> list[Problem]:
    """What would be refused of the finished encoder, said before anything is trained or written."""
    if getattr(config, "default_language", "") is None:
        languages = ", ".join(config.languages)
        return [Problem("model.config.default_language", "is missing", f"the texts' language, one of: {languages}")]
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        try:
            check_encoder(directory, _TASK.head_class, max_length, tokenizer)
        except ModelError as error:
            return [Problem("model.config", error.message.removeprefix(f"{directory}: "), "", error.remedy)]
    return []


def _sample_texts(split: LabelledSet, seed: int, storage: Storage) -> Iterator[str]:
    """Usable texts, shard by shard in an order drawn by the seed."""
    for number in np.random.default_rng(seed).permutation(len(split.shards)):
        usable = read_usable(split.shards[number], split, _TASK, Learned(), storage)
        yield from usable.texts[0].to_pylist()


def _config_of(fields: Mapping[str, Any], tokenizer: Any) -> Any:
    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    return AutoConfig.for_model(**fields, vocab_size=len(tokenizer), **tokens)


def _draw_network(config: Any, seed: int) -> Any:
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
