"""embedding: the encoder as a feature extractor; no head, no training target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.errors import ModelError
from pipeline.tasks.base import Evaluation, Examples, Learned, WindowTargets
from pipeline.tasks.similarity import check_finite, correlate, numeric

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.model import ModelOutputs

_REMEDY = "`bertmill bundle` wraps an encoder as it is"


class Embedding:
    """The pooled encoder output; evaluated by the cosine of scored pairs."""

    name = "embedding"
    inputs: tuple[str, ...] = ("text",)
    evaluation_inputs: tuple[tuple[str, ...], ...] = (("text_a",), ("text_b",))
    target = "score"
    head_class = "AutoModel"
    needs_spans = False
    windows_always = False
    is_trained = False
    main_metric = "spearman"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Nothing is learned from data."""
        return Learned()

    def head_config(self, learned: Learned) -> dict[str, object]:
        """No head."""
        return {}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """The score of a pair is a finite number."""
        return check_finite(targets)

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """Not trained."""
        raise ModelError("task embedding is not trained yet", _REMEDY)

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Not trained."""
        raise ModelError("task embedding is not trained yet", _REMEDY)

    def output_fields(self) -> list[pa.Field]:
        """None beside the embedding, which every task can write."""
        return []

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Nothing to decode."""
        return []

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """The pair's score and the cosine of its embeddings."""
        left, right = (output.embeddings.astype(np.float64) for output in outputs)
        scale = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines = (left * right).sum(axis=1) / np.maximum(scale, 1e-12)
        return pa.table({"truth": numeric(targets), "predicted": cosines})

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Spearman and Pearson of cosine and score."""
        return correlate(judged)
