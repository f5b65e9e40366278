"""What a study asks of a pretrained encoder as it is: its tokenizer's ids, and its embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows
from pipeline.finetune.spec import FinetuneSpec

FloatArray = npt.NDArray[np.float32]
_NO_HEAD = "AutoModel"


class FrozenEncoder:
    """A pretrained encoder that stays as it is.

    Args:
        encoder: A checked directory or hub id.
        spec: Says max_length, pooling, normalize and what runs the model.
    """

    def __init__(self, encoder: str, spec: FinetuneSpec) -> None:
        self._encoder, self._spec = encoder, spec
        plain = load_tokenizer(encoder)
        self._padding = Padding.of(plain)
        self._tokenizer = TextTokenizer(plain, TokenOptions(spec.max_length))

    def tokenize(self, texts: list[str]) -> TokenRows:
        """Token ids of each text, special tokens included; longer text is truncated."""
        return self._tokenizer.encode(pa.chunked_array([pa.array(texts, pa.large_string())]))

    def embed(self, parts: list[list[str]]) -> list[FloatArray]:
        """One array [R, hidden] for each list of texts."""
        embedding = EmbeddingOptions(self._spec.pooling, self._spec.normalize)
        head = Head(load_network(self._encoder, _NO_HEAD), embedding)
        model = EncoderModel([head], choose_runtime(self._spec.compute), self._padding)
        return [model.run(self.tokenize(texts))[0].embeddings for texts in parts]
