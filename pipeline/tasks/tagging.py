"""Tags to entities and back, and entity scores as conlleval and seqeval count them. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OUTSIDE = "O"
_BEGINS = frozenset("BSU")  # BIOES says S for a single word, BILOU says U
_ENDS = frozenset("ESL")  # and E or L for a last one


@dataclass(frozen=True, order=True)
class TagSpan:
    """An entity over words [start, stop) of one row."""

    start: int
    stop: int
    label: str


def read_tags(tags: Sequence[str]) -> list[TagSpan]:
    """Entities in a row of tags, whatever the scheme: IOB1, IOB2, BIOES or BILOU.

    The rules are conlleval's, where schemes need not be told apart: an entity begins at a B, S or U, after an E, L,
    S, U or O, and wherever the label changes.

    Args:
        tags: `O`, or a prefix, a hyphen and a label, for each word.

    Raises:
        ValueError: a tag is none of these.
    """
    spans: list[TagSpan] = []
    start = 0
    previous_prefix, previous_label = OUTSIDE, ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = split_tag(tag)
        inside = previous_prefix != OUTSIDE
        ends = inside and (
            prefix == OUTSIDE or prefix in _BEGINS or previous_prefix in _ENDS or label != previous_label
        )
        if ends:
            spans.append(TagSpan(start, position, previous_label))
        if prefix != OUTSIDE and (ends or not inside):
            start = position
        previous_prefix, previous_label = prefix, label
    return spans


@dataclass(frozen=True)
class TagSpans:
    """Entities over the words of many rows.

    Attributes:
        starts, stops: int64 [E]; words, counted over all rows.
        labels: Of each.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    labels: list[str]


def find_spans(tags: npt.NDArray[np.int64], names: Sequence[str], offsets: npt.NDArray[np.int64]) -> TagSpans:
    """What `read_tags` reads of each row, for all rows at once; none reaches over two rows.

    Args:
        tags: int64 [N]; the tag of each word as a place in `names`, -1 for `O`.
        names: Tags of any scheme.
        offsets: int64 [R + 1]; row i has the words `offsets[i]:offsets[i + 1]`.

    Raises:
        ValueError: a name that occurs is none of a tag.
    """
    known = {number: split_tag(names[number]) for number in np.unique(tags[tags >= 0]).tolist()}
    is_inside, begins, ends = (np.zeros(len(names) + 1, np.bool_) for _ in range(3))
    kinds, kind_of = sorted({label for _, label in known.values()}), np.full(len(names) + 1, -1, np.int64)
    for number, (prefix, label) in known.items():  # the last place is that of -1: outside
        is_inside[number], begins[number], ends[number] = prefix != OUTSIDE, prefix in _BEGINS, prefix in _ENDS
        kind_of[number] = kinds.index(label)
    num_words = np.diff(offsets)
    spread = np.full(len(tags) + len(num_words), -1, np.int64)  # an `O` behind each row
    spread[np.arange(len(tags)) + np.repeat(np.arange(len(num_words)), num_words)] = tags
    inside, kind = is_inside[spread], kind_of[spread]
    was_inside, had_ended = (np.concatenate([[False], part])[: len(spread)] for part in (inside, ends[spread]))
    is_other = kind != np.concatenate([[-1], kind])[: len(spread)]
    closes = was_inside & (~inside | begins[spread] | had_ended | is_other)
    starts, stops = np.flatnonzero(inside & (closes | ~was_inside)), np.flatnonzero(closes)
    rows = np.repeat(np.arange(len(num_words)), num_words + 1)
    return TagSpans(starts - rows[starts], stops - rows[stops], [kinds[place] for place in kind[starts].tolist()])


def write_tags(spans: Iterable[TagSpan], num_words: int) -> list[str]:
    """The IOB2 tags of some entities, which must not overlap."""
    tags = [OUTSIDE] * num_words
    for span in spans:
        tags[span.start] = f"B-{span.label}"
        for position in range(span.start + 1, span.stop):
            tags[position] = f"I-{span.label}"
    return tags


def split_tag(tag: str) -> tuple[str, str]:
    """(prefix, label) of a tag; (`O`, ``) outside.

    Raises:
        ValueError: the tag is neither `O` nor a known prefix, a hyphen and a label.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, hyphen, label = tag.partition("-")
    if not hyphen or not label or prefix not in ("B", "I", "E", "S", "L", "U", "M"):
        raise ValueError(f"tag {tag!r}; expected O, or B-, I-, E-, S- (BIOES) or L-, U- (BILOU) and a label")
    return prefix, label


@dataclass(frozen=True)
class EntityScores:
    """Exact-match entity figures over many rows."""

    precision: float
    recall: float
    f1: float


def score_entities(gold: Iterable[Sequence[TagSpan]], predicted: Iterable[Sequence[TagSpan]]) -> EntityScores:
    """Micro-averaged precision, recall and F1: an entity counts if its words and its label are all right."""
    num_gold = num_predicted = num_right = 0
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        num_gold += len(gold_row)
        num_predicted += len(predicted_row)
        num_right += len(set(gold_row) & set(predicted_row))
    precision = num_right / num_predicted if num_predicted else 0.0
    recall = num_right / num_gold if num_gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if num_right else 0.0
    return EntityScores(precision, recall, f1)
