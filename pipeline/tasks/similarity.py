"""similarity: how alike two texts are, as a number in the range of the training labels (a cross-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tasks.base import Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.numbers import fixed_targets, pearson, sigmoid, spearman

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

AS_IT_IS: dict[str, float] = {"sigmoid": 0.0}
"""The option of a head whose output is the number itself; without it there is a sigmoid."""


class Similarity:
    """One output through a sigmoid, stretched over the label's range; binary cross-entropy on the scaled label.

    The output of a head that others trained may be the number itself (`AS_IT_IS`).
    """

    name = "similarity"
    bundled_as = "similarity"
    inputs: tuple[str, ...] = ("text_a", "text_b")
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text_a", "text_b"),)
    optional_inputs: tuple[str, ...] = ()
    target = "score"
    needs_target = True
    compares_rows = False
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModelForSequenceClassification"
    needs_spans = False
    windows_always = False
    classes_of: Literal["rows", "tokens"] | None = None
    metrics: tuple[str, ...] = ("spearman", "pearson")
    main_metric = "spearman"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Lowest and highest finite label."""
        values = numeric(targets)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        sameness = f"the score {low:g}" if len(values) and low == high else None
        return Learned((), {"low": low, "high": high}, sameness)

    def head_config(self, learned: Learned) -> dict[str, object]:
        """One output."""
        return {"num_labels": 1, "problem_type": "regression"}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """The score is a finite number."""
        return check_finite(targets)

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[W, 1], scaled to 0-1."""
        low, high = learned.options["low"], learned.options["high"]
        scaled = (numeric(targets) - low) / max(high - low, 1e-12)
        return fixed_targets(scaled[examples.tokens.window_rows][:, None].astype(np.float32))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy with a fractional target."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")

    def output_fields(self) -> list[pa.Field]:
        """`similarity`, in the label's own range; any number where the head has no sigmoid."""
        return [pa.field("similarity", pa.float32())]

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Sigmoid if there is one, stretched."""
        return [pa.array(self._stretch(outputs, learned), pa.float32())]

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """None: a similarity is no choice."""
        return None

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """Truth and prediction."""
        return pa.table({"truth": numeric(targets), "predicted": self._stretch(outputs[0], learned)})

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Pearson and Spearman."""
        return correlate(judged)

    def _stretch(self, outputs: ModelOutputs, learned: Learned) -> npt.NDArray[np.float64]:
        low, high = learned.options["low"], learned.options["high"]
        values = outputs.logits.reshape(-1)
        values = sigmoid(values) if learned.options.get("sigmoid", 1.0) else values
        return low + (high - low) * values.astype(np.float64)


def numeric(targets: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A numeric column as float64 [R], NaN where null."""
    return np.asarray(pc.fill_null(targets.cast(pa.float64()), float("nan")).to_numpy(), np.float64)


def check_finite(targets: pa.ChunkedArray) -> pa.Array:
    """Why a score cannot be used: string array [R], null where it is a finite number."""
    usable = pa.array(np.isfinite(numeric(targets)))
    return pc.if_else(usable, pa.scalar(None, pa.string()), pa.scalar("score is null or not finite"))


def correlate(judged: pa.Table) -> Evaluation:
    """Correlations of the columns `truth` and `predicted`."""
    if not judged.num_rows:
        return Evaluation(0, {})
    truth, predicted = judged["truth"].to_numpy(), judged["predicted"].to_numpy()
    metrics = {"spearman": spearman(truth, predicted), "pearson": pearson(truth, predicted)}
    return Evaluation(len(truth), metrics)
