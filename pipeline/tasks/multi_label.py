"""multi-label: any number of a fixed set of labels for one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import SCORES_TYPE, is_list
from pipeline.tasks.base import Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.numbers import f1_scores, fixed_targets, matrix, score_lists, sigmoid
from pipeline.tasks.text_classification import class_names, combined, distinct_labels, label_names

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

_DEFAULT_THRESHOLD = 0.5
_SURE = 1e-7
_ALL_LABELS = "all of the labels (if its lists hold a 0 or a 1 for each label, give lists of the labels' names)"


class MultiLabel:
    """A linear layer with one sigmoid per label; binary cross-entropy; thresholds tuned on validation."""

    name = "multi-label"
    bundled_as = "multi-label"
    inputs: tuple[str, ...] = ("text",)
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text",),)
    optional_inputs: tuple[str, ...] = ()
    target = "labels"
    needs_target = True
    compares_rows = False
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModelForSequenceClassification"
    needs_spans = False
    windows_always = False
    classes_of: Literal["rows", "tokens"] | None = None
    metrics: tuple[str, ...] = ("micro_f1", "macro_f1", "exact_match")
    main_metric = "micro_f1"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Distinct labels: numbers in numeric order, everything else in string order.

        Raises:
            TypeError: there are no lists, or they are multi-hot: a 0 or a 1 for each label, without its name.
        """
        _check_type(targets.type)
        if _are_multi_hot(targets):
            raise TypeError(
                "its lists hold a 0 or a 1 for each label (multi-hot); expected the names of a row's labels"
            )
        labels = distinct_labels(pc.list_flatten(targets))
        return Learned(labels, sameness=_ALL_LABELS if _have_all(targets, labels) else None)

    def head_config(self, learned: Learned) -> dict[str, object]:
        """Class names, and transformers' own name for this kind of head."""
        return {**class_names(learned.labels), "problem_type": "multi_label_classification"}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """The list is there (it may be empty) and holds known labels only.

        Raises:
            TypeError: there are no lists.
        """
        _check_type(targets.type)
        lists = combined(targets)
        names = label_names(pc.list_flatten(lists))
        is_unknown = pc.invert(pc.is_in(names, value_set=pa.array(learned.labels, pa.string())))
        reasons: list[str | None] = [
            "labels are null" if missing else None for missing in pc.is_null(lists).to_pylist()
        ]
        rows = pc.list_parent_indices(lists).filter(is_unknown).to_pylist()
        for row, name in reversed(list(zip(rows, names.filter(is_unknown).to_pylist(), strict=True))):
            reasons[row] = "a label is null" if name is None else f"label is unknown: {name}"
        return pa.array(reasons, pa.string())

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[W, C], 1 for each label of the row."""
        return fixed_targets(_multi_hot(targets, learned.labels)[examples.tokens.window_rows])

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy, averaged over labels and summed over rows."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
        return losses.mean(dim=1).sum()

    def output_fields(self) -> list[pa.Field]:
        """The labels above their thresholds, and every label's probability."""
        return [
            pa.field("labels", pa.list_(pa.field("element", pa.string()))),
            pa.field("class_scores", SCORES_TYPE),
        ]

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Sigmoid and thresholds."""
        scores = sigmoid(outputs.logits)
        chosen = scores >= _thresholds(learned)[: scores.shape[1]]  # without rows the model has no width either
        names = np.array(learned.labels, dtype=object)
        labels = [names[row].tolist() for row in chosen]
        return [pa.array(labels, self.output_fields()[0].type), score_lists(scores)]

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """How far the nearest label is from its threshold."""
        thresholds = np.clip(_thresholds(learned)[: outputs.logits.shape[1]], _SURE, 1 - _SURE)
        distances = np.abs(outputs.logits - np.log(thresholds / (1 - thresholds)))
        return np.asarray(distances.min(axis=1, initial=np.inf), np.float32)

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """True labels as ones and zeros, and probabilities."""
        truth = _multi_hot(targets, learned.labels)
        return pa.table({"truth": score_lists(truth), "scores": score_lists(sigmoid(outputs[0].logits))})

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """For each label the threshold with the highest F1 on these rows; labels without a true row keep 0.5."""
        if not judged.num_rows:
            return learned
        truth, scores = matrix(judged["truth"]), matrix(judged["scores"])
        tuned = {
            f"threshold.{label}": _best_threshold(truth[:, index] > 0, scores[:, index])
            for index, label in enumerate(learned.labels)
        }
        return Learned(learned.labels, {**learned.options, **tuned})

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Micro and macro F1 (a label without truth and prediction counts 0), exact-match accuracy."""
        if not judged.num_rows:
            return Evaluation(0, {})
        truth, scores = matrix(judged["truth"]) > 0, matrix(judged["scores"])
        predicted = scores >= _thresholds(learned)
        hits, support, chosen = (truth & predicted).sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0)
        metrics = {
            "micro_f1": float(2 * hits.sum() / max(support.sum() + chosen.sum(), 1)),
            "macro_f1": float(f1_scores(hits, support, chosen).mean()),
            "exact_match": float((truth == predicted).all(axis=1).mean()),
        }
        return Evaluation(judged.num_rows, metrics)


def _check_type(kind: pa.DataType) -> None:
    if not is_list(kind):
        raise TypeError("expected lists: the names of a row's labels")


def _are_multi_hot(targets: pa.ChunkedArray) -> bool:
    """Lists of one length that hold only 0 and 1, some of them one of these twice, as no list of names does."""
    kind, lists = targets.type.value_type, pc.drop_null(combined(targets))
    values = pc.list_flatten(lists)
    is_number = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    widths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if not is_number or len(widths) != 1 or widths[0] < 2 or values.null_count:
        return False
    flags = np.asarray(values.cast(pa.float64()).to_numpy()).reshape(-1, widths[0])
    repeats = widths[0] > 2 or (flags[:, 0] == flags[:, 1]).any()
    return bool(repeats and np.isin(flags, (0, 1)).all())


def _have_all(targets: pa.ChunkedArray, labels: Sequence[str]) -> bool:
    """Whether there are rows, and each has every label."""
    lists = pc.drop_null(combined(targets))
    if not len(lists) or pc.min(pc.list_value_length(lists)).as_py() < len(labels):
        return False
    return bool(_multi_hot(lists, labels).all())


def _multi_hot(targets: pa.Array | pa.ChunkedArray, labels: Sequence[str]) -> FloatArray:
    lists = combined(targets)
    hot = np.zeros((len(lists), len(labels)), np.float32)
    columns = pc.index_in(label_names(pc.list_flatten(lists)), value_set=pa.array(labels, pa.string()))
    rows = pc.list_parent_indices(lists)
    present = pc.is_valid(columns)
    hot[pc.filter(rows, present).to_numpy(), pc.filter(columns, present).to_numpy()] = 1
    return hot


def _thresholds(learned: Learned) -> FloatArray:
    values = [learned.options.get(f"threshold.{label}", _DEFAULT_THRESHOLD) for label in learned.labels]
    return np.array(values, np.float32)


def _best_threshold(truth: npt.NDArray[np.bool_], scores: FloatArray) -> float:
    if not truth.any():
        return _DEFAULT_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    ordered = scores[order]
    usable = np.append(ordered[:-1] > ordered[1:], True)  # a cut between equal scores is no threshold
    best = int(np.where(usable, f1, -1).argmax())
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)
