"""embedding: the encoder as a feature extractor, as it is or trained on pairs, triplets or scored pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.tasks.base import Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.numbers import fixed_targets, matrix, score_lists
from pipeline.tasks.retrieval import SEARCH_METRICS, SearchSet, search_metrics
from pipeline.tasks.similarity import check_finite, correlate, numeric

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

_SCALE = 20.0  # cosines are sharpened by this before a softmax: a temperature of 0.05


class Embedding:
    """The pooled encoder output.

    Trained without a target, `text_a` and `text_b` belong together and every other row's `text_b` (and `negative`,
    where given) is what `text_a` does not belong to: cross-entropy over the whole global batch (InfoNCE). Trained
    with a score, pairs are ordered by it (CoSENT). Evaluated by the cosine's correlation with a score, or without
    one as a search for each `text_a` among all `text_b`.
    """

    name = "embedding"
    bundled_as = "embedding"
    inputs: tuple[str, ...] = ("text",)
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text_a",), ("text_b",))
    optional_inputs: tuple[str, ...] = ("negative",)
    target = "score"
    needs_target = False
    compares_rows = True
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModel"
    needs_spans = False
    windows_always = False
    classes_of: Literal["rows", "tokens"] | None = None
    metrics: tuple[str, ...] = ("spearman", "pearson", *SEARCH_METRICS)
    main_metric = "spearman"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Nothing is learned from targets."""
        numeric(targets)  # raises where they are no numbers
        return Learned()

    def head_config(self, learned: Learned) -> dict[str, object]:
        """No head."""
        return {}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """The score of a pair, where there is one, is a finite number."""
        if pa.types.is_null(targets.type):
            return pa.nulls(len(targets), pa.string())
        return check_finite(targets)

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[R, 1] scores; without scores [R, 2K] keys of a row's K texts, so that rows that share one are known.

        A key is 48 bits in two numbers: a float32 holds whole numbers up to 24.
        """
        if pa.types.is_null(targets.type):
            keys = [_keys(texts) for texts in examples.texts]
            halves = [half for key in keys for half in (key >> 24 & 0xFF_FFFF, key & 0xFF_FFFF)]
            return fixed_targets(np.stack(halves, axis=1).astype(np.float32))
        return fixed_targets(numeric(targets)[:, None].astype(np.float32))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """N times the mean loss over the batch's N rows; `logits` are embeddings [N, K, H]."""
        from torch.nn.functional import normalize

        vectors_NKH = normalize(logits.float(), dim=-1)
        return _ranking_loss(vectors_NKH, targets) if targets.shape[1] == 1 else _in_batch_loss(vectors_NKH, targets)

    def output_fields(self) -> list[pa.Field]:
        """None beside the embedding, which every task can write."""
        return []

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Nothing to decode."""
        return []

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """None: an embedding is no choice."""
        return None

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """The pair's score and the cosine of its embeddings; without scores, both embeddings and the texts' keys."""
        left, right = (output.embeddings.astype(np.float64) for output in outputs[:2])
        if pa.types.is_null(targets.type):
            keys = [pa.array(_keys(texts), pa.int64()) for texts in examples.texts[:2]]
            vectors = [score_lists(output.embeddings) for output in outputs[:2]]
            return pa.table([*keys, *vectors], names=["query", "document", "query_vector", "document_vector"])
        scale = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines = (left * right).sum(axis=1) / np.maximum(scale, 1e-12)
        return pa.table({"truth": numeric(targets), "predicted": cosines})

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Spearman and Pearson of cosine and score; or recall, nDCG and MRR of the search among all `text_b`."""
        if "truth" in judged.column_names:
            return correlate(judged)
        queries, query_rows = _distinct(judged["query"])
        documents, document_rows = _distinct(judged["document"])
        relevance: list[dict[int, float]] = [defaultdict(float) for _ in query_rows]
        for query, document in zip(queries, documents, strict=True):
            relevance[query][int(document)] = 1.0
        found = SearchSet(
            matrix(judged["query_vector"].take(query_rows)),
            matrix(judged["document_vector"].take(document_rows)),
            relevance,
        )
        return Evaluation(judged.num_rows, search_metrics(found))


def _keys(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number of 48 bits for each text, the same in every process."""
    digests = (blake2b(text.encode(), digest_size=6).digest() for text in texts.to_pylist())
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.int64)


def _distinct(keys: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The number of each row's distinct text, and a row where each of them stands."""
    _, first, numbers = np.unique(np.asarray(keys.to_numpy()), return_index=True, return_inverse=True)
    return np.asarray(numbers, np.int64), pa.array(first)


def _in_batch_loss(vectors_NKH: torch.Tensor, keys_NT: torch.Tensor) -> torch.Tensor:
    """Each first text must find its second among all rows' others; what equals it is no wrong answer.

    Nor is the second text of a row with the same first. Two numbers of `keys_NT` are one text's key.
    """
    import torch
    from torch.nn.functional import cross_entropy

    num_rows = len(vectors_NKH)
    candidates = vectors_NKH[:, 1:].transpose(0, 1).flatten(0, 1)  # all second texts, then all negatives
    scores = _SCALE * vectors_NKH[:, 0] @ candidates.T
    keys_NK2 = keys_NT.view(num_rows, -1, 2)
    same_query_NN = (keys_NK2[:, None, 0] == keys_NK2[None, :, 0]).all(dim=-1)
    same_NNK = (keys_NK2[:, None, None, 1] == keys_NK2[None, :, 1:]).all(dim=-1)  # its second text, as a candidate
    others_NN = ~torch.eye(num_rows, dtype=torch.bool, device=keys_NT.device)
    same_NNK[..., 0] = (same_NNK[..., 0] | same_query_NN) & others_NN
    blocked = same_NNK.transpose(1, 2).flatten(1)
    scores = scores.masked_fill(blocked, float("-inf"))
    return cross_entropy(scores, torch.arange(num_rows, device=scores.device), reduction="sum")


def _ranking_loss(vectors_NKH: torch.Tensor, scores_N1: torch.Tensor) -> torch.Tensor:
    """CoSENT: of any two pairs the one with the higher score is to have the higher cosine."""
    import torch

    cosines_N = _SCALE * (vectors_NKH[:, 0] * vectors_NKH[:, 1]).sum(dim=-1)
    is_above = scores_N1 > scores_N1.T
    excess = (cosines_N[None] - cosines_N[:, None])[is_above]
    return len(cosines_N) * torch.logsumexp(torch.cat([excess.new_zeros(1), excess]), dim=0)
