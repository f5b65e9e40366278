"""text-classification and pair-classification: one of a fixed set of labels for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import SCORES_TYPE, holds_vectors
from pipeline.tasks.base import IGNORED, Confusion, Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.losses import class_loss_sum
from pipeline.tasks.numbers import (
    calibration_error,
    f1_scores,
    fixed_targets,
    lead,
    matrix,
    matthews,
    score_lists,
    softmax,
    vectors_of,
)

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs


class TextClassification:
    """A linear layer on the pooled encoder; cross-entropy; the label is the arg max of the softmax.

    The target is a label (string or integer), or soft: a struct with one probability per label, or a teacher's
    `class_scores`, a list of them.
    """

    name = "text-classification"
    bundled_as = "text-classification"
    inputs: tuple[str, ...] = ("text",)
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text",),)
    optional_inputs: tuple[str, ...] = ()
    target = "label"
    needs_target = True
    compares_rows = False
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModelForSequenceClassification"
    needs_spans = False
    windows_always = False
    classes_of: Literal["rows", "tokens"] | None = "rows"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1", "weighted_f1", "mcc", "ece", "loss")
    main_metric = "macro_f1"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Distinct labels: numbers in numeric order, everything else in string order; a struct's own order."""
        if pa.types.is_struct(targets.type):
            for field in targets.type:
                _check_probability(field)
            return Learned(tuple(field.name for field in targets.type))
        if holds_vectors(targets.type):
            raise TypeError("a list of scores does not say which labels they are of: name the bundle as data.teacher")
        _check_type(targets.type)
        return Learned(distinct_labels(targets))

    def head_config(self, learned: Learned) -> dict[str, object]:
        """Names of the classes, and transformers' own name for this kind of head."""
        return {**class_names(learned.labels), "problem_type": "single_label_classification"}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """A label is there and known; soft labels are finite, not negative, and not all zero.

        Raises:
            TypeError: a row has several labels.
        """
        if _is_soft(targets):
            soft = _soft_targets(targets, learned)
            usable = np.isfinite(soft).all(axis=1) & (soft >= 0).all(axis=1) & (soft.sum(axis=1) > 0)
            reason = pc.if_else(pa.array(usable), pa.scalar(None, pa.string()), "soft label is not a distribution")
            return _name_unknown(targets, learned, reason)
        _check_type(targets.type)
        known = encode_labels(targets, learned.labels) >= 0
        reason = pc.if_else(pc.is_null(label_names(targets)), pa.scalar("label is null"), pa.scalar("label is unknown"))
        return pc.if_else(pa.array(known), pa.scalar(None, pa.string()), combined(reason))

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[W, 1] class numbers, or [W, C] probabilities."""
        windows = examples.tokens.window_rows
        if _is_soft(targets):
            soft = _soft_targets(targets, learned)
            return fixed_targets((soft / soft.sum(axis=1, keepdims=True))[windows])
        return fixed_targets(encode_labels(targets, learned.labels)[windows][:, None].astype(np.float32))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in fp32, hard or soft."""
        return class_loss_sum(logits, targets)

    def output_fields(self) -> list[pa.Field]:
        """`label`, its probability, and every class's probability in the order of the bundle's labels."""
        return [
            pa.field("label", pa.string()),
            pa.field("score", pa.float32()),
            pa.field("class_scores", SCORES_TYPE),
        ]

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Softmax, arg max and its probability."""
        scores = softmax(outputs.logits)
        best = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
        return [
            pa.array(learned.labels, pa.string()).take(pa.array(best)),
            pa.array(scores[np.arange(len(scores)), best], pa.float32()),
            score_lists(scores),
        ]

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """How far the likeliest class is ahead of the next."""
        return lead(outputs.logits)

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """True class number and logits."""
        if _is_soft(targets):
            truth = _soft_targets(targets, learned).argmax(axis=1)
        else:
            truth = encode_labels(targets, learned.labels)
        return pa.table({"truth": pa.array(truth), "logits": score_lists(outputs[0].logits)})

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Accuracy, macro and weighted F1, MCC, calibration, loss, confusion.

        Macro F1 is over classes that occur in truth or prediction, as scikit-learn's default has it.
        """
        truth, logits = judged["truth"].to_numpy(), matrix(judged["logits"])
        logits, truth = logits[truth >= 0], truth[truth >= 0]
        counts = np.zeros((len(learned.labels), len(learned.labels)), np.int64)
        if not len(truth):
            return Evaluation(0, {}, None)
        np.add.at(counts, (truth, logits.argmax(axis=1)), 1)
        hits, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        f1 = f1_scores(hits, support, predicted)
        scores = softmax(logits)
        metrics = {
            "accuracy": float(hits.sum() / len(truth)),
            "macro_f1": float(f1[(support + predicted) > 0].mean()),
            "weighted_f1": float((f1 * support).sum() / len(truth)),
            "mcc": matthews(counts),
            "ece": calibration_error(scores.max(axis=1), scores.argmax(axis=1) == truth),
            "loss": abs(float(np.log(np.maximum(scores[np.arange(len(truth)), truth], 1e-30)).mean())),  # never -0.0
        }
        return Evaluation(len(truth), metrics, Confusion(learned.labels, counts))


class PairClassification(TextClassification):
    """Language inference, paraphrase: both texts in one input, a separator between them."""

    name = "pair-classification"
    bundled_as = "pair-classification"
    inputs: tuple[str, ...] = ("text_a", "text_b")
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text_a", "text_b"),)
    main_metric = "accuracy"


def class_names(labels: Sequence[str]) -> dict[str, object]:
    """`id2label` and `label2id` of a head."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def encode_labels(targets: pa.ChunkedArray, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Index of each label [R]; -100 where it is null or not among `labels`."""
    positions = pc.index_in(label_names(targets), value_set=pa.array(labels, pa.string()))
    return np.asarray(pc.fill_null(positions, int(IGNORED)).to_numpy(), np.int64)


def distinct_labels(values: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    """Names of the distinct labels, in the order of the values themselves; nulls and NaN are none."""
    distinct = pc.drop_null(pc.unique(_plain_labels(values)))
    return tuple(label_names(distinct.take(pc.sort_indices(distinct))).to_pylist())


def label_names(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Labels of any type as text: Arrow's spelling (`true`, `1`, `0.5`), wherever labels are named or looked up."""
    return _plain_labels(values).cast(pa.string())


def _plain_labels(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Without a dictionary; NaN is what some writers put where there is no label, and -0.0 is 0.0."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_floating(values.type):
        return values
    zero, nothing = (pa.scalar(value, values.type) for value in (0.0, None))
    return pc.if_else(pc.is_nan(values), nothing, pc.if_else(pc.equal(values, zero), zero, values))


def combined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of a chunked one."""
    if isinstance(values, pa.ChunkedArray):
        return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    return values


def _check_type(kind: pa.DataType) -> None:
    if pa.types.is_nested(kind):
        raise TypeError("expected one label, text or a number; several labels a row are for multi-label")


def _is_soft(targets: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_struct(targets.type)) or holds_vectors(targets.type)


def _soft_targets(targets: pa.ChunkedArray, learned: Learned) -> FloatArray:
    """[R, C] from structs or lists of probabilities.

    NaN where one is null, and where a list has another length; 0 for a label that structs have no field for.
    """
    if holds_vectors(targets.type):
        return vectors_of(targets, len(learned.labels))
    fields = {field.name: field for field in targets.type}
    soft = np.zeros((len(targets), len(learned.labels)), np.float32)
    for place, label in enumerate(learned.labels):
        if label in fields:
            soft[:, place] = _probabilities(targets, fields[label])
    soft[np.asarray(pc.is_null(targets).to_numpy(), np.bool_)] = np.nan
    return soft


def _name_unknown(targets: pa.ChunkedArray, learned: Learned, reason: pa.Array) -> pa.Array:
    """Rows whose structs give weight to a label that was never learned are unusable for that reason."""
    if pa.types.is_struct(targets.type):
        for field in targets.type:
            if field.name not in learned.labels:
                is_meant = pa.array(np.nan_to_num(_probabilities(targets, field)) != 0)
                reason = pc.if_else(is_meant, f"label is unknown: {field.name}", reason)
    return reason


def _probabilities(targets: pa.ChunkedArray, field: pa.Field) -> FloatArray:
    _check_probability(field)
    values = pc.struct_field(targets, [targets.type.get_field_index(field.name)]).cast(pa.float64())
    return np.asarray(pc.fill_null(values, float("nan")).to_numpy(), np.float32)


def _check_probability(field: pa.Field) -> None:
    kind = field.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise TypeError(f"field {field.name!r} is {kind}; expected a number: the probability of a label for each field")
