"""A bundle on this machine's device: texts in, tokens and model outputs out. Scoring and evaluation share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import ComputeConfig
from pipeline.encoder.attention import choose_runtime, set_threads
from pipeline.encoder.bundle import Bundle, BundleInfo, fetch_bundle
from pipeline.encoder.model import EmbeddingOptions, EncoderModel, ModelOutputs, load_network, load_tokenizer
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Examples, Learned, Task


@dataclass(frozen=True)
class ModelSource:
    """Which bundle a worker loads, and what runs it."""

    bundle_uri: str
    compute: ComputeConfig
    num_threads: int
    storage: Storage


class Predictor:
    """A bundle's task, tokenizer and model."""

    def __init__(self, bundle: Bundle, model: EncoderModel, tokenizer: TextTokenizer) -> None:
        self.bundle = bundle
        self.task = find_task(bundle.info.task, str(bundle.path))
        self.learned = Learned(bundle.info.labels, bundle.info.options)
        self._model = model
        self._tokenizer = tokenizer

    def predict(self, texts: Sequence[pa.ChunkedArray], are_words: bool = False) -> tuple[Examples, ModelOutputs]:
        """Tokenise and run one model input per row.

        Args:
            texts: One string array, or two for a pair, without nulls [R].
            are_words: The text is a list of words joined by spaces.
        """
        tokens = self._tokenizer.encode(*texts)
        return Examples(tuple(texts), tokens, are_words), self._model.run(tokens)


def load_predictor(source: ModelSource) -> Predictor:
    """Fetch and load a bundle.

    Raises:
        ModelError, ComputeError: it cannot be loaded or run here.
    """
    set_threads(source.num_threads)
    bundle = fetch_bundle(source.bundle_uri, source.storage)
    info = bundle.info
    task = find_task(info.task, source.bundle_uri)
    runtime = choose_runtime(source.compute)
    tokenizer = TextTokenizer(load_tokenizer(bundle.path), token_options(info, task))
    network = load_network(bundle.path, task.head_class)
    embedding = EmbeddingOptions(info.pooling, info.normalize)
    padding = Padding(tokenizer.pad_id, tokenizer.pads_left)
    return Predictor(bundle, EncoderModel(network, runtime, embedding, padding), tokenizer)


def token_options(info: BundleInfo, task: Task) -> TokenOptions:
    """How a bundle's text becomes tokens."""
    long_text = "window" if task.windows_always else info.long_text
    return TokenOptions(info.max_length, long_text, info.stride, task.needs_spans)
