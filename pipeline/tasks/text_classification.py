"""text-classification: one text in, one of a fixed set of labels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import SCORES_TYPE
from pipeline.tasks.base import Confusion, Evaluation, FloatArray, TargetArray

if TYPE_CHECKING:
    import torch

IGNORED = -100


class TextClassification:
    """A linear layer on the pooled encoder; cross-entropy; the label is the arg max of the softmax."""

    name = "text-classification"
    inputs: tuple[str, ...] = ("text",)
    target = "label"
    main_metric = "macro_f1"
    head_class = "AutoModelForSequenceClassification"

    def find_labels(self, targets: pa.ChunkedArray) -> tuple[str, ...]:
        """Distinct labels: integers in numeric order, everything else in string order."""
        values = sorted(value for value in pc.unique(targets).to_pylist() if value is not None)
        return tuple(pa.array(values, targets.type).cast(pa.string()).to_pylist())

    def encode_targets(self, targets: pa.ChunkedArray, labels: Sequence[str]) -> TargetArray:
        """Index of each label; -100 where it is null or not among `labels`."""
        positions = pc.index_in(targets.cast(pa.string()), value_set=pa.array(labels, pa.string()))
        return np.asarray(pc.fill_null(positions, IGNORED).to_numpy(zero_copy_only=False), np.int64)

    def loss_sum(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in fp32, summed over rows with a label."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits_BC.float(), targets_B, ignore_index=IGNORED, reduction="sum")

    def output_fields(self) -> list[pa.Field]:
        """`label`, its probability `score`, and every class's probability in the order of the bundle's labels."""
        return [
            pa.field("label", pa.string()),
            pa.field("score", pa.float32()),
            pa.field("class_scores", SCORES_TYPE),
        ]

    def decode(self, logits: FloatArray, labels: Sequence[str]) -> list[pa.Array]:
        """Softmax, arg max and its probability."""
        scores = softmax(logits)
        best = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
        offsets = np.arange(len(scores) + 1, dtype=np.int32) * len(labels)
        flat = pa.array(scores.reshape(-1), pa.float32())
        return [
            pa.array(labels, pa.string()).take(pa.array(best)),
            pa.array(scores[np.arange(len(scores)), best], pa.float32()),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat).cast(SCORES_TYPE),
        ]

    def evaluate(self, logits: FloatArray, targets: TargetArray, labels: Sequence[str]) -> Evaluation:
        """Accuracy, macro and weighted F1 (a class without rows and predictions counts 0), loss, confusion."""
        valid = targets != IGNORED
        logits, targets = logits[valid], targets[valid]
        counts = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(counts, (targets, logits.argmax(axis=1)), 1)
        hits, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        f1 = 2 * hits / np.maximum(support + predicted, 1)
        chosen = softmax(logits)[np.arange(len(targets)), targets]
        num_rows = max(len(targets), 1)
        metrics = {
            "accuracy": float(hits.sum() / num_rows),
            "macro_f1": float(f1[(support + predicted) > 0].mean()) if len(targets) else 0.0,
            "weighted_f1": float((f1 * support).sum() / num_rows),
            "loss": float(-np.log(np.maximum(chosen, 1e-30)).mean()) if len(targets) else 0.0,
        }
        return Evaluation(len(targets), metrics, Confusion(tuple(labels), counts))


def softmax(logits: FloatArray) -> FloatArray:
    """Row-wise softmax, float32 [rows, classes]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    result: FloatArray = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
