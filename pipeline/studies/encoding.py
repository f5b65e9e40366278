"""What a study asks of a pretrained encoder as it is: its tokenizer's ids, and its embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.model import EmbeddingOptions, EncoderModel, load_network, load_tokenizer
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
        self._tokenizer = TextTokenizer(load_tokenizer(encoder), TokenOptions(spec.max_length))

    def tokenize(self, texts: list[str]) -> TokenRows:
        """Token ids of each text, special tokens included; longer text is truncated."""
        return self._tokenizer.encode(pa.chunked_array([pa.array(texts, pa.large_string())]))

    def embed(self, parts: list[list[str]]) -> list[FloatArray]:
        """One array [R, hidden] for each list of texts."""
        padding = Padding(self._tokenizer.pad_id, self._tokenizer.pads_left)
        embedding = EmbeddingOptions(self._spec.pooling, self._spec.normalize)
        network = load_network(self._encoder, _NO_HEAD)
        with EncoderModel(network, choose_runtime(self._spec.compute), embedding, padding) as model:
            return [model.run(self.tokenize(texts)).embeddings for texts in parts]
