"""The methods of a learning curve: each gets labelled rows and texts, and gives a label for each text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.corpus.reader import input_column
from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.tokenize import TokenRows
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import DataConfig, FinetuneSpec
from pipeline.inference.predictor import load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.storage import Storage
from pipeline.studies.encoding import FrozenEncoder
from pipeline.studies.rows import TextRows
from pipeline.studies.spec import Method, ScratchConfig
from pipeline.studies.subsets import IntArray

_ONLY = ""  # the name of a bundle that works alone
_TEXT = {_ONLY: TextSource(("text",))}


@dataclass(frozen=True)
class MethodContext:
    """What a method may use.

    Attributes:
        encoder: The pretrained encoder, resolved.
        finetune: How it is fine-tuned; says also max_length, pooling, and what runs the model.
        scratch: How the networks from scratch are made and trained.
        seed: Of everything drawn.
        num_threads: Its share of the cores.
        subset_uri: Where a method that reads files may write its training rows.
    """

    encoder: str
    finetune: FinetuneSpec
    scratch: ScratchConfig
    seed: int
    num_threads: int
    subset_uri: str


def predict(method: Method, train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    """Train a method on labelled rows and label texts with it."""
    return _METHODS[method](train, texts, context)


def _finetune(train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    """The whole way that `bertmill finetune` and `bertmill score` go, in one process; the bundle is not kept."""
    train.write(context.subset_uri, Storage(context.finetune.storage))
    recipe = context.finetune.training.model_copy(update={"seed": context.seed})
    with tempfile.TemporaryDirectory() as scratch:
        bundle = f"{scratch}/bundle"
        changes = {"data": DataConfig(train=(context.subset_uri,)), "output": bundle, "training": recipe}
        train_alone(prepare_training(context.finetune.model_copy(update=changes), "study"), context.num_threads)
        compute, threads = context.finetune.compute, context.num_threads
        source = ModelSource({_ONLY: bundle}, _TEXT, compute, threads, Storage(), embedded=frozenset())
        predictor = load_predictor(source)
    rows = pa.table({input_column("text"): pa.array(texts, pa.large_string())})
    member, found = predictor.members[_ONLY], predictor.predict(rows, _TEXT)[_ONLY]
    labels: list[str] = member.task.decode(found.outputs, found.examples, member.learned)[0].to_pylist()
    return labels


def _frozen(train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    from pipeline.studies.linear import predict_logistic

    encoder = FrozenEncoder(context.encoder, context.finetune)
    features, test_features = encoder.embed([train.texts, texts])
    return predict_logistic(features, train.labels, test_features, context.seed)


def _tfidf(train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    from pipeline.studies.linear import predict_tfidf

    return predict_tfidf((train.texts, train.labels), texts, context.seed)


def _bilstm(train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    return _from_scratch("bilstm", train, texts, context)


def _cnn(train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    return _from_scratch("cnn", train, texts, context)


def _from_scratch(kind: str, train: TextRows, texts: list[str], context: MethodContext) -> list[str]:
    from pipeline.studies.scratch import ScratchRecipe, TokenisedSet, predict_scratch

    tokenizer = FrozenEncoder(context.encoder, context.finetune)
    names, classes = np.unique(np.asarray(train.labels), return_inverse=True)
    device = choose_runtime(context.finetune.compute).device
    recipe = ScratchRecipe(kind, context.scratch, context.seed, device)
    known = TokenisedSet(_ragged(tokenizer.tokenize(train.texts)), classes.astype(np.int64))
    found = predict_scratch(known, _ragged(tokenizer.tokenize(texts)), recipe)
    return [str(name) for name in names[found]]


def _ragged(tokens: TokenRows) -> list[IntArray]:
    return [tokens.row(index).astype(np.int64) for index in range(len(tokens))]


_METHODS: dict[Method, Callable[[TextRows, list[str], MethodContext], list[str]]] = {
    "finetune": _finetune,
    "frozen": _frozen,
    "bilstm": _bilstm,
    "cnn": _cnn,
    "tfidf": _tfidf,
}
