"""masked-lm: an encoder learns a language from text alone, by guessing tokens that are hidden from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tasks.base import IGNORED, Evaluation, Examples, Learned, WindowTargets
from pipeline.tasks.embedding import Embedding
from pipeline.tasks.losses import class_loss_sum

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs


class MaskedLanguageModel(Embedding):
    """Cross-entropy of hidden tokens; what comes of it is an encoder, for embeddings and to fine-tune.

    There is no target column. Which tokens are hidden is drawn when a batch is made, anew each epoch, so what stands
    in place of targets is the word that each token is of. Evaluated with tokens hidden by the seed alone.
    """

    name = "masked-lm"
    bundled_as = "embedding"
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text",),)
    optional_inputs: tuple[str, ...] = ()
    compares_rows = False
    hides_tokens = True
    pairs_windows = False
    head_class = "AutoModelForMaskedLM"
    needs_spans = True
    metrics: tuple[str, ...] = ("loss", "accuracy", "perplexity")
    main_metric = "accuracy"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Nothing; raises TypeError where there is a target column."""
        if not pa.types.is_null(targets.type):
            raise TypeError("it learns from text alone and takes no target")
        return Learned()

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """Every text will do."""
        return pa.nulls(len(targets), pa.string())

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[T] the word each token is of, ignored for special tokens."""
        tokens = examples.tokens
        assert tokens.words is not None
        values = np.where(tokens.words >= 0, tokens.words, IGNORED).astype(np.float32)
        return WindowTargets(values, tokens.offsets, np.ones(len(tokens), np.int64))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in fp32 over hidden tokens; `logits` are [M, V], of those alone."""
        return class_loss_sum(logits, targets)

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """Each hidden token's negative log-likelihood, and whether it is guessed; `targets` are the hidden tokens."""
        logits = outputs[0].logits
        truth = np.asarray(targets.to_numpy(), np.int64)
        highest = logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        losses = log_sums - logits[np.arange(len(truth)), truth]
        return pa.table({"loss": pa.array(losses, pa.float64()), "is_right": logits.argmax(axis=1) == truth})

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Means over hidden tokens; the perplexity is the exponential of the mean loss."""
        if not judged.num_rows:
            return Evaluation(0, {})
        loss = float(np.mean(judged["loss"].to_numpy()))
        accuracy = float(np.mean(judged["is_right"].to_numpy()))
        metrics = {"loss": loss, "accuracy": accuracy, "perplexity": float(np.exp(min(loss, 700.0)))}
        return Evaluation(judged.num_rows, metrics)


class NextSentenceLanguageModel(MaskedLanguageModel):
    """The same, and whether the second part of a window follows its first (Devlin et al. 2019, section 3.1).

    The judged rows are hidden tokens, and windows where `of_pair` is set.
    """

    name = "masked-lm-next"
    pairs_windows = True
    head_class = "AutoModelForPreTraining"
    metrics: tuple[str, ...] = (*MaskedLanguageModel.metrics, "next_loss", "next_accuracy")

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Figures of hidden tokens, and of windows."""
        of_tokens = super().evaluate(judged.filter(pc.invert(judged["of_pair"])), learned)
        pairs = judged.filter(judged["of_pair"])
        if not pairs.num_rows:
            return of_tokens
        of_pairs = {
            "next_loss": float(np.mean(pairs["loss"].to_numpy())),
            "next_accuracy": float(np.mean(pairs["is_right"].to_numpy())),
        }
        return Evaluation(of_tokens.num_rows, {**of_tokens.metrics, **of_pairs})
