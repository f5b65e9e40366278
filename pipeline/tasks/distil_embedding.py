"""distil-embedding: an encoder learns to embed texts as another one did, from a table of that one's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import holds_vectors
from pipeline.tasks.base import Evaluation, Examples, Learned, WindowTargets
from pipeline.tasks.embedding import Embedding
from pipeline.tasks.numbers import fixed_targets, matrix, score_lists, unit_vectors, vectors_of

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

_WIDTH = "teacher_width"


class DistilEmbedding(Embedding):
    """The target is the teacher's embedding of the text.

    Where both encoders are of one width, each embedding is drawn towards the teacher's: 1 - cosine, so that the two
    can be searched together. Else the cosines between the texts of a global batch are drawn towards the teacher's:
    their mean squared difference; no projection is needed, and none remains.
    """

    name = "distil-embedding"
    bundled_as = "embedding"
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text",),)
    optional_inputs: tuple[str, ...] = ()
    target = "embedding"
    needs_target = True
    metrics: tuple[str, ...] = ("cka", "cosine")
    main_metric = "cka"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """The width of the teacher's embeddings; raises TypeError where there are none."""
        if not holds_vectors(targets.type):
            raise TypeError("embeddings are expected, lists of numbers")
        widths = pc.drop_null(pc.list_value_length(targets))
        return Learned((), {_WIDTH: float(widths[0].as_py())} if len(widths) else {})

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """The embedding is there, as wide as the others, finite, and not zero."""
        vectors = vectors_of(targets, int(learned.options.get(_WIDTH, 0)))
        usable = np.isfinite(vectors).all(axis=1) & (np.abs(vectors).sum(axis=1) > 0)
        reason = "embedding is null, of another width, not finite, or zero"
        return pc.if_else(pa.array(usable), pa.scalar(None, pa.string()), reason)

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[R, D], scaled to length 1."""
        return fixed_targets(unit_vectors(vectors_of(targets, int(learned.options.get(_WIDTH, 0)))))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """N times the mean loss over the batch's N rows; `logits` are embeddings [N, 1, H], `targets` [N, D]."""
        from torch.nn.functional import normalize

        vectors_NH = normalize(logits[:, 0].float(), dim=-1)
        if vectors_NH.shape == targets.shape:
            return (1 - (vectors_NH * targets).sum(dim=-1)).sum()
        return len(vectors_NH) * (vectors_NH @ vectors_NH.T - targets @ targets.T).square().mean()

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """Both embeddings, of length 1."""
        teacher = unit_vectors(vectors_of(targets, int(learned.options.get(_WIDTH, 0))))
        return pa.table({"own": score_lists(unit_vectors(outputs[0].embeddings)), "teacher": score_lists(teacher)})

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Linear CKA of the two sets of embeddings (1: the same but for rotation), and their mean cosine if it exists.

        Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, equation 4 with centred columns.
        """
        if not judged.num_rows:
            return Evaluation(0, {})
        own, teacher = (matrix(judged[name]).astype(np.float64) for name in ("own", "teacher"))
        metrics = {"cka": _cka(own, teacher)}
        if own.shape == teacher.shape:
            metrics["cosine"] = float((own * teacher).sum(axis=1).mean())
        return Evaluation(judged.num_rows, metrics)


def _cka(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    shared = float(np.square(left.T @ right).sum())
    scale = float(np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right))
    return shared / scale if scale > 0 else 0.0
