"""token-classification: entities, slots, parts of speech; one label per word, entities with character offsets.

Targets are one tag per word (IOB1, IOB2, BIOES or BILOU; the text is then a list of words), or a list of
{start, end, label} over the characters of the text. Words are the list's own, or else the tokenizer's. A word's
label is its first token's; a word that the tokenizer drops has no token, no loss, and no entity. Entities are judged
by what the targets count: words, or characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from operator import eq
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.schema import is_list, is_text
from pipeline.tasks.base import IGNORED, Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.losses import class_loss_sum
from pipeline.tasks.numbers import lead, softmax
from pipeline.tasks.tagging import (
    OUTSIDE,
    TagSpan,
    TagSpans,
    find_spans,
    read_tags,
    score_entities,
    split_tag,
    write_tags,
)
from pipeline.tasks.text_classification import class_names
from pipeline.tasks.words import Words, find_beginnings, find_words, speaking_tokens

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

ENTITY_TYPE = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("text", pa.string()),
                pa.field("label", pa.string()),
                pa.field("start", pa.int32()),
                pa.field("end", pa.int32()),
                pa.field("score", pa.float32()),
            ]
        ),
    )
)
_SPANS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())]))
_JUDGED = pa.schema([("truth", _SPANS), ("predicted", _SPANS), ("num_words", pa.int64()), ("num_right", pa.int64())])


class TokenClassification:
    """A linear layer over tokens; cross-entropy on the first token of each word."""

    name = "token-classification"
    bundled_as = "token-classification"
    inputs: tuple[str, ...] = ("text",)
    labelled_inputs: tuple[tuple[str, ...], ...] = (("text",),)
    optional_inputs: tuple[str, ...] = ()
    target = "tags"
    needs_target = True
    compares_rows = False
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModelForTokenClassification"
    needs_spans = True
    windows_always = False
    classes_of: Literal["rows", "tokens"] | None = "tokens"
    metrics: tuple[str, ...] = ("precision", "recall", "f1", "word_accuracy")
    main_metric = "f1"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """`O`, then `B-` and `I-` of every label, in string order.

        Raises:
            TypeError: no row's tags can be read, and why.
        """
        _check_type(targets.type)
        kinds = {span.label for row in targets.to_pylist() if row is not None for span in _known_spans(row)}
        if not kinds and not _are_spans(targets):
            _check_some_tags(targets)
        return Learned((OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")))

    def head_config(self, learned: Learned) -> dict[str, object]:
        """Names of the tags."""
        return class_names(learned.labels)

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """As many tags as words and each of a known scheme; or ranges inside the text."""
        known = set(learned.labels)
        pairs = zip(targets.to_pylist(), texts[0].to_pylist(), strict=True)
        if _are_spans(targets):
            _check_type(targets.type)
            return pa.array([_span_problem(target, text, known) for target, text in pairs], pa.string())
        return pa.array([_problem(target, text, known) for target, text in pairs], pa.string())

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[T] class numbers on first tokens, ignored elsewhere; in every window that holds the token."""
        numbers = {label: index for index, label in enumerate(learned.labels)}
        tokens = examples.tokens
        values = np.full(len(tokens.ids), IGNORED, np.float32)
        words = find_words(_with_tagged_words(examples, targets))
        tags = [numbers[tag] for row in _tags_of_words(targets, words) for tag in row]
        begins = find_beginnings(tokens, words)
        values[begins.tokens] = np.array(tags, np.float32)[begins.words]
        weights = np.add.reduceat(values != IGNORED, tokens.offsets[:-1]) if len(tokens) else np.zeros(0, np.int64)
        return WindowTargets(values, tokens.offsets, weights.astype(np.int64))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over labelled tokens."""
        return class_loss_sum(logits, targets)

    def output_fields(self) -> list[pa.Field]:
        """`entities`: text, label, character range and mean probability of each."""
        return [pa.field("entities", ENTITY_TYPE)]

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Entities of every row, in text order."""
        words = find_words(examples)
        return [_entities(outputs.logits, examples, words, learned)]

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """How far the likeliest tag is ahead of the next, for the word of a row where that is least."""
        words = find_words(examples)
        spoken = speaking_tokens(examples.tokens, words)
        heard, least = spoken >= 0, np.full(examples.tokens.num_rows, np.inf, np.float32)
        np.minimum.at(least, words.rows[heard], lead(outputs.logits[spoken[heard]]))
        return least

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """True and predicted entities, how many words there are, and of how many the tag is right."""
        words = find_words(_with_tagged_words(examples, targets))
        spoken = speaking_tokens(examples.tokens, words)
        best = outputs[0].logits.argmax(axis=1) if len(outputs[0].logits) else np.zeros(1, np.int64)
        names = np.where(spoken >= 0, np.array(learned.labels, object)[best[spoken]], OUTSIDE)
        edges = zip(words.offsets[:-1].tolist(), words.offsets[1:].tolist(), strict=True)
        predicted = [names[start:stop].tolist() for start, stop in edges]
        truth = _tags_of_words(targets, words)
        num_right = [sum(map(eq, true, told)) for true, told in zip(truth, predicted, strict=True)]
        if _are_spans(targets):
            texts = examples.texts[-1].to_pylist()
            true_spans = [_trimmed(*row) for row in zip(targets.to_pylist(), texts, strict=True)]
            told_spans = [_spans(row) for row in _entities(outputs[0].logits, examples, words, learned).to_pylist()]
        else:
            true_spans, told_spans = ([read_tags(tags) for tags in rows] for rows in (truth, predicted))
        counts = [pa.array(map(len, truth), pa.int64()), pa.array(num_right, pa.int64())]
        return pa.table([_span_lists(true_spans), _span_lists(told_spans), *counts], schema=_JUDGED)

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Entity precision, recall and F1 as conlleval counts them, and accuracy over words."""
        truth, predicted = ([_spans(row) for row in judged[name].to_pylist()] for name in ("truth", "predicted"))
        scores = score_entities(truth, predicted)
        num_words, num_right = (sum(judged[name].to_pylist()) for name in ("num_words", "num_right"))
        accuracy = num_right / max(num_words, 1)
        metrics = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "word_accuracy": accuracy}
        return Evaluation(judged.num_rows, metrics)


def _trimmed(target: Sequence[Any], text: str) -> list[TagSpan]:
    """Entities as they were given, without white space at their edges, which is never predicted."""
    trimmed = []
    for span in _spans(target):
        inside = text[span.start : span.stop]
        start = span.start + len(inside) - len(inside.lstrip())
        trimmed.append(TagSpan(start, max(start, span.start + len(inside.rstrip())), span.label))
    return trimmed


def _spans(row: Sequence[Any]) -> list[TagSpan]:
    """Entities over characters: those of a target, a prediction or a judgement."""
    return sorted({TagSpan(span["start"], span["end"], span["label"]) for span in row})


def _span_lists(rows: Sequence[Sequence[TagSpan]]) -> pa.Array:
    found = [[{"start": span.start, "end": span.stop, "label": span.label} for span in row] for row in rows]
    return pa.array(found, _SPANS)


def _known_spans(target: Sequence[Any]) -> list[TagSpan]:
    """Labels of a target of either kind; none where it cannot be read (`check` says why)."""
    if target and isinstance(target[0], dict):
        return [TagSpan(0, 0, span["label"]) for span in target if span and span["label"]]
    try:
        return read_tags(target)
    except (ValueError, TypeError, AttributeError):
        return []


def _check_type(kind: pa.DataType) -> None:
    if not is_list(kind):
        raise TypeError("expected lists: a tag for each word, or {start, end, label} for each entity")
    if pa.types.is_struct(kind.value_type) and not _fits_spans(kind.value_type):
        raise TypeError("expected list<struct<start: int, end: int, label: string>>, characters of the text")


def _fits_spans(kind: pa.StructType) -> bool:
    fields = {field.name: field.type for field in kind}
    label = fields.get("label", pa.null())
    places = (fields.get(name, pa.null()) for name in ("start", "end"))
    return all(map(pa.types.is_integer, places)) and (is_text(label) or bool(pa.types.is_dictionary(label)))


def _check_some_tags(targets: pa.ChunkedArray) -> None:
    for tag in {tag: None for row in targets.to_pylist() if isinstance(row, list) for tag in row}:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is {tag!r}; expected text such as B-PER, I-PER and O")
        try:
            split_tag(tag)
        except ValueError as error:
            raise TypeError(str(error)) from None


def _are_spans(targets: pa.ChunkedArray) -> bool:
    """Character spans, not tags; told by the type, as a list of either kind may be empty."""
    kind = getattr(targets.type, "value_type", None)
    return kind is not None and bool(pa.types.is_struct(kind))


def _span_problem(target: Sequence[Any] | None, text: str, known: set[str]) -> str | None:
    if target is None:
        return "tags are null"
    if any(span is None or None in (span["start"], span["end"], span["label"]) for span in target):
        return "a span has nulls"
    spans = _spans(target)
    for span in spans:
        if not 0 <= span.start < span.stop <= len(text):
            return f"span {span.start}-{span.stop} is outside the text"
        if f"B-{span.label}" not in known:
            place = f"span {span.start}-{span.stop}"
            return f"label is unknown: {span.label}" if span.label else f"{place} has an empty label"
    for span, after in pairwise(spans):
        if after.start < span.stop:
            return f"spans {span.start}-{span.stop} and {after.start}-{after.stop} overlap; a word has one label"
    return None


def _problem(target: Sequence[Any] | None, text: str, known: set[str]) -> str | None:
    if not isinstance(target, list):
        return "tags are null" if target is None else "tags are no list"
    if None in target:
        return "a tag is null"
    if len(target) != len(text.split(" ")):
        return f"{len(target)} tags for {len(text.split(' '))} words"
    try:
        labels = {split_tag(tag)[1] for tag in target} - {""}
    except (ValueError, TypeError, AttributeError) as error:
        return str(error)
    unknown = sorted(label for label in labels if f"B-{label}" not in known)
    return f"label is unknown: {unknown[0]}" if unknown else None


def _tags_of_words(targets: pa.ChunkedArray, words: Words) -> list[list[str]]:
    """IOB2 tags for each word of each row, from tags of any scheme or from character spans."""
    ranges = np.stack([words.starts, words.ends], axis=1)
    edges = zip(words.offsets[:-1].tolist(), words.offsets[1:].tolist(), strict=True)
    rows = zip(targets.to_pylist(), edges, strict=True)
    return [_word_tags(target, ranges[start:stop]) for target, (start, stop) in rows]


def _word_tags(target: Sequence[Any], ranges: npt.NDArray[np.int64]) -> list[str]:
    """Those of one row, whose words have these character ranges [words, 2]."""
    if not (target and isinstance(target[0], dict)):
        return write_tags(read_tags(target), len(ranges)) if target else [OUTSIDE] * len(ranges)
    spans = []
    for span in sorted(target, key=lambda item: item["start"]):
        inside = np.flatnonzero((ranges[:, 1] > span["start"]) & (ranges[:, 0] < span["end"]))
        if len(inside):
            spans.append(TagSpan(int(inside[0]), int(inside[-1]) + 1, str(span["label"])))
    return write_tags(spans, len(ranges))


def _with_tagged_words(examples: Examples, targets: pa.ChunkedArray) -> Examples:
    """Tags are counted against words between single spaces (`check`), also where the text is a plain string."""
    return examples if _are_spans(targets) else replace(examples, are_words=True)


def _entities(logits: FloatArray, examples: Examples, words: Words, learned: Learned) -> pa.Array:
    """What the first tokens of these words say, row by row; rows of `ENTITY_TYPE`."""
    spoken = speaking_tokens(examples.tokens, words)
    heard = spoken >= 0
    scores = softmax(logits[spoken[heard]])
    best = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
    tags, chances = np.full(len(words), -1, np.int64), np.zeros(len(words), np.float32)
    tags[heard], chances[heard] = best, scores[np.arange(len(best)), best]
    return _entity_lists(examples.texts[-1], words, find_spans(tags, learned.labels, words.offsets), chances)


def _entity_lists(texts: pa.ChunkedArray, words: Words, spans: TagSpans, chances: FloatArray) -> pa.Array:
    """Each row's entities, without white space before them; their score is the mean over their words."""
    rows = words.rows[spans.starts]
    starts, ends = words.starts[spans.starts], words.ends[spans.stops - 1]
    strings = texts.to_pylist()
    places = zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
    whole = [strings[row][start:end] for row, start, end in places]
    kept = [text.lstrip() for text in whole]
    starts = starts + np.array([len(one) - len(other) for one, other in zip(whole, kept, strict=True)], np.int64)
    fields = [
        pa.array(kept, pa.string()),
        pa.array(spans.labels, pa.string()),
        pa.array(starts, pa.int32()),
        pa.array(ends, pa.int32()),
        pa.array(_means(chances, spans)),
    ]
    entities = pa.StructArray.from_arrays(fields, fields=list(ENTITY_TYPE.value_type))
    offsets = np.searchsorted(rows, np.arange(len(words.offsets))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entities).cast(ENTITY_TYPE)


def _means(chances: FloatArray, spans: TagSpans) -> FloatArray:
    """Mean over each entity's words, rounded as `numpy.mean` rounds it, which adds to a zero."""
    padded = np.append(np.insert(chances, spans.starts, 0), np.float32(0))
    shift = np.arange(len(spans.starts))
    edges = np.stack([spans.starts + shift, spans.stops + shift + 1], axis=1).reshape(-1)
    sums = np.add.reduceat(padded, edges)[::2] if len(edges) else np.zeros(0, np.float32)
    return np.asarray(sums / (spans.stops - spans.starts), np.float32)
