"""Stored rows against what transformers says of them, within tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import ModelError
from pipeline.inference.reference import FloatArray, FreshRow
from pipeline.inference.span_closeness import compare_answer, compare_entities
from pipeline.inference.tolerance import Tolerance
from pipeline.schema import EMBEDDING, SOURCE_FILE, SOURCE_ROW, prefixed
from pipeline.tasks.base import Task

Row = Mapping[str, Any]
_ONE_LABEL = ("text-classification", "pair-classification")
_SPANS = ("token-classification", "question-answering")


@dataclass(frozen=True)
class OwnColumns:
    """The names of a table's columns, and the name by which one bundle's are prefixed (empty if it scored alone)."""

    there: frozenset[str]
    bundle_name: str = ""

    def has(self, column: str) -> bool:
        """Whether the table has the bundle's column."""
        return prefixed(self.bundle_name, column) in self.there


@dataclass(frozen=True)
class RescoredSample:
    """What the comparison found; the extremes are None where the table has no such column."""

    num_rows: int
    compared: tuple[str, ...]
    max_score_difference: float | None
    min_cosine: float | None
    num_near_ties: int
    problems: tuple[str, ...]


class Comparison:
    """Stored rows against fresh ones.

    Args:
        info: The bundle that scored the night.
        task: Its task.
        columns: Which columns of the table are its own.
        tolerance: How far they may be off.

    Raises:
        ModelError: the table has none of the task's columns.
    """

    def __init__(self, info: BundleInfo, task: Task, columns: OwnColumns, tolerance: Tolerance) -> None:
        self._info, self._tolerance, self._bundle_name = info, tolerance, columns.bundle_name
        own = [*(item.name for item in task.output_fields()), EMBEDDING]
        self._columns = [name for name in own if columns.has(name)]
        self._has_spans = task.name in _SPANS and {item.name for item in task.output_fields()} <= {*self._columns}
        self._accounts = [name for name in ("num_tokens", "truncated") if columns.has(name)]
        if not self._columns:
            wanted = ", ".join(prefixed(columns.bundle_name, name) for name in own)
            raise ModelError(
                f"the table has none of the columns that task {task.name} writes ({wanted})",
                "give the bundle that scored the night, and --name if it was one of several",
            )
        self._kind = task.name
        self._differences: list[float] = []
        self._cosines: list[float] = []
        self._num_near_ties = 0
        self._problems: list[str] = []

    @property
    def columns(self) -> list[str]:
        """The table's columns that are read."""
        return [prefixed(self._bundle_name, name) for name in (*self._columns, *self._accounts)]

    def add(self, row: Row, fresh: FreshRow) -> None:
        """Compare one row."""
        stored = {name: row[prefixed(self._bundle_name, name)] for name in (*self._columns, *self._accounts)}
        place = f"{row[SOURCE_FILE]} row {row[SOURCE_ROW]}"
        found = [*self._accounts_of(stored, fresh), *self._scores_of(stored, fresh), *self._embedding_of(stored, fresh)]
        self._problems += [f"{place}: {problem}" for problem in found]

    def result(self, num_rows: int) -> RescoredSample:
        """All rows together."""
        return RescoredSample(
            num_rows,
            tuple(self.columns),
            max(self._differences, default=None),
            min(self._cosines, default=None),
            self._num_near_ties,
            tuple(self._problems),
        )

    def _accounts_of(self, stored: Row, fresh: FreshRow) -> list[str]:
        now = {"num_tokens": fresh.num_tokens, "truncated": fresh.is_truncated}
        return [f"{name} is {stored[name]}, now {now[name]}" for name in self._accounts if stored[name] != now[name]]

    def _embedding_of(self, stored: Row, fresh: FreshRow) -> list[str]:
        if EMBEDDING not in stored:
            return []
        vector = np.asarray(stored[EMBEDDING], np.float64)
        if vector.shape != fresh.embedding.shape:
            return [f"embedding has {vector.size} numbers, now {fresh.embedding.size}"]
        scale = np.linalg.norm(vector) * np.linalg.norm(fresh.embedding)
        cosine = float(vector @ fresh.embedding / scale) if scale else 0.0
        self._cosines.append(cosine)
        if self._info.normalize and abs(np.linalg.norm(vector) - 1) > 1e-3:
            return [f"embedding has length {np.linalg.norm(vector):.4f} instead of 1"]
        is_close = cosine >= self._tolerance.cosine
        return [] if is_close else [f"embedding has cosine {cosine:.6f} with fp32, less than {self._tolerance.cosine}"]

    def _scores_of(self, stored: Row, fresh: FreshRow) -> list[str]:
        if self._kind == "similarity":
            return self._number_of(stored, float(fresh.logits[0]))
        if self._kind == "multi-label":
            return self._labels_of(stored, _sigmoid(fresh.logits))
        if self._has_spans:
            return self._spans_of(stored, fresh)
        return self._label_of(stored, _softmax(fresh.logits)) if self._kind in _ONE_LABEL else []

    def _number_of(self, stored: Row, logit: float) -> list[str]:
        options = self._info.options
        if not options.get("sigmoid", 1.0):  # of no range that is known: a large number may be off by its own share
            return self._differ("similarity", stored, [logit], max(abs(logit), 1.0))
        low, high = options["low"], options["high"]
        value = low + (high - low) * float(_sigmoid(np.array(logit)))
        return self._differ("similarity", stored, [value], max(high - low, 1e-12))

    def _spans_of(self, stored: Row, fresh: FreshRow) -> list[str]:
        if self._kind == "question-answering":
            found = compare_answer(stored, fresh, self._info.options, self._tolerance)
        else:
            found = compare_entities(stored["entities"], fresh, self._info.labels, self._tolerance)
        self._differences += found.differences
        self._num_near_ties += found.num_near_ties
        return found.problems

    def _label_of(self, stored: Row, scores: FloatArray) -> list[str]:
        labels, best = self._info.labels, int(scores.argmax())
        found = self._differ("class_scores", stored, list(scores), 1.0)
        label = stored.get("label", labels[best])
        if label not in labels:
            return [*found, f"label {label!r} is none of the bundle's"]
        found += self._differ("score", stored, [float(scores[labels.index(label)])], 1.0)
        if label != labels[best]:
            gap = float(scores[best] - scores[labels.index(label)])
            if gap <= 2 * self._tolerance.score:
                self._num_near_ties += 1
            else:
                found.append(f"label is {label!r}, fp32 says {labels[best]!r} (by {gap:.3f})")
        return found

    def _labels_of(self, stored: Row, scores: FloatArray) -> list[str]:
        found = self._differ("class_scores", stored, list(scores), 1.0)
        for label, score in zip(self._info.labels, scores, strict=True):
            margin = float(score) - self._info.options.get(f"threshold.{label}", 0.5)
            if "labels" not in stored or (label in stored["labels"]) == (margin >= 0):
                continue
            if abs(margin) <= self._tolerance.score:
                self._num_near_ties += 1
            else:
                found.append(f"label {label!r} is {'there' if margin < 0 else 'missing'}, fp32 is {margin:+.3f} off")
        return found

    def _differ(self, name: str, stored: Row, values: Sequence[float], scale: float) -> list[str]:
        """A stored number, or list of them, against fp32's."""
        if name not in stored:
            return []
        there = stored[name] if isinstance(stored[name], list) else [stored[name]]
        if len(there) != len(values) or None in there:
            return [f"{name} is {stored[name]}; expected {len(values)} numbers"]
        difference = float(np.abs(np.asarray(there, np.float64) - np.asarray(values)).max(initial=0.0)) / scale
        self._differences.append(difference)
        is_close = difference <= self._tolerance.score
        return [] if is_close else [f"{name} differs by {difference:.4f} from fp32, more than {self._tolerance.score}"]


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-logits)))
