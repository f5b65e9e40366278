"""token-classification: entities, slots, parts of speech; one label per word, entities with character offsets.

Targets are one tag per word (IOB1, IOB2, BIOES or BILOU; the text is then a list of words), or a list of
{start, end, label} over the characters of the text. Words are the list's own, or else the tokenizer's. A word's
label is its first token's; a word that the tokenizer drops has no token, no loss, and no entity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.tasks.base import IGNORED, Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.losses import class_loss_sum
from pipeline.tasks.numbers import softmax
from pipeline.tasks.tagging import OUTSIDE, TagSpan, read_tags, score_entities, split_tag, write_tags
from pipeline.tasks.text_classification import class_names

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.model import ModelOutputs

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
_JUDGED = pa.schema([("truth", pa.list_(pa.string())), ("predicted", pa.list_(pa.string()))])


@dataclass(frozen=True)
class _Words:
    """Words of one row: character ranges [words, 2], and the token that speaks for each (-1: dropped)."""

    ranges: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


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
            return pa.array([_span_problem(target, text) for target, text in pairs], pa.string())
        return pa.array([_problem(target, text, known) for target, text in pairs], pa.string())

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[T] class numbers on first tokens, ignored elsewhere; in every window that holds the token."""
        numbers = {label: index for index, label in enumerate(learned.labels)}
        tokens = examples.tokens
        values = np.full(len(tokens.ids), IGNORED, np.float32)
        known_words = _all_words(_with_tagged_words(examples, targets))
        for row, (target, words) in enumerate(zip(targets.to_pylist(), known_words, strict=True)):
            tags = _word_tags(target, words)
            for window in _row_windows(tokens.window_rows, row):
                base, stop = tokens.offsets[window], tokens.offsets[window + 1]
                firsts = _first_tokens(examples, words.ranges, int(base), int(stop))
                for tag, first in zip(tags, firsts, strict=True):
                    if first >= 0:
                        values[first] = numbers[tag]
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
        scores = softmax(outputs.logits)
        texts = examples.texts[-1].to_pylist()
        rows = [
            _entities(text, words, scores, learned) for text, words in zip(texts, _all_words(examples), strict=True)
        ]
        return [pa.array(rows, ENTITY_TYPE)]

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """True and predicted IOB2 tags, word by word."""
        best = outputs[0].logits.argmax(axis=1) if len(outputs[0].logits) else np.zeros(0, np.int64)
        truth, predicted = [], []
        known_words = _all_words(_with_tagged_words(examples, targets))
        for target, words in zip(targets.to_pylist(), known_words, strict=True):
            truth.append(_word_tags(target, words))
            predicted.append([learned.labels[best[token]] if token >= 0 else OUTSIDE for token in words.tokens])
        return pa.table([truth, predicted], schema=_JUDGED)

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Nothing to tune."""
        return learned

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Entity precision, recall and F1 as conlleval counts them, and accuracy over words."""
        truth, predicted = judged["truth"].to_pylist(), judged["predicted"].to_pylist()
        scores = score_entities(map(read_tags, truth), map(read_tags, predicted))
        pairs = [pair for left, right in zip(truth, predicted, strict=True) for pair in zip(left, right, strict=True)]
        accuracy = sum(left == right for left, right in pairs) / max(len(pairs), 1)
        metrics = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "word_accuracy": accuracy}
        return Evaluation(judged.num_rows, metrics)


def _known_spans(target: Sequence[Any]) -> list[TagSpan]:
    """Labels of a target of either kind; none where it cannot be read (`check` says why)."""
    if target and isinstance(target[0], dict):
        return [TagSpan(0, 0, span["label"]) for span in target if span and span["label"] is not None]
    try:
        return read_tags(target)
    except (ValueError, TypeError, AttributeError):
        return []


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


def _span_problem(target: Sequence[Any] | None, text: str) -> str | None:
    if target is None:
        return "tags are null"
    for span in target:
        if span is None or None in (span["start"], span["end"], span["label"]):
            return "a span has nulls"
        if not 0 <= span["start"] < span["end"] <= len(text):
            return f"span {span['start']}-{span['end']} is outside the text"
    return None


def _problem(target: Sequence[Any] | None, text: str, known: set[str]) -> str | None:
    if target is None:
        return "tags are null"
    if len(target) != len(text.split(" ")):
        return f"{len(target)} tags for {len(text.split(' '))} words"
    try:
        labels = {split_tag(tag)[1] for tag in target} - {""}
    except (ValueError, TypeError, AttributeError) as error:
        return str(error)
    unknown = sorted(label for label in labels if f"B-{label}" not in known)
    return f"label is unknown: {unknown[0]}" if unknown else None


def _word_tags(target: Sequence[Any], words: _Words) -> list[str]:
    """IOB2 tags for each word, from tags of any scheme or from character spans."""
    if not (target and isinstance(target[0], dict)):
        return write_tags(read_tags(target), len(words.ranges)) if target else [OUTSIDE] * len(words.ranges)
    spans = []
    for span in sorted(target, key=lambda item: item["start"]):
        inside = np.flatnonzero((words.ranges[:, 1] > span["start"]) & (words.ranges[:, 0] < span["end"]))
        if len(inside):
            spans.append(TagSpan(int(inside[0]), int(inside[-1]) + 1, str(span["label"])))
    return write_tags(spans, len(words.ranges))


def _with_tagged_words(examples: Examples, targets: pa.ChunkedArray) -> Examples:
    """Tags are counted against words between single spaces (`check`), also where the text is a plain string."""
    return examples if _are_spans(targets) else replace(examples, are_words=True)


def _all_words(examples: Examples) -> Iterator[_Words]:
    """Words of each row; of windows that overlap, the one in which a word stands furthest from an edge speaks."""
    tokens = examples.tokens
    for row, text in enumerate(examples.texts[-1].to_pylist()):
        windows = _row_windows(tokens.window_rows, row)
        ranges = _list_words(text) if examples.are_words else _tokenizer_words(examples, windows)
        chosen = np.full(len(ranges), -1, np.int64)
        margin = np.full(len(ranges), -1, np.int64)
        for window in windows:
            base, stop = int(tokens.offsets[window]), int(tokens.offsets[window + 1])
            firsts = _first_tokens(examples, ranges, base, stop)
            room = np.where(firsts >= 0, np.minimum(firsts - base, stop - 1 - firsts), -1)
            better = room > margin
            chosen[better], margin[better] = firsts[better], room[better]
        yield _Words(ranges, chosen)


def _row_windows(window_rows: npt.NDArray[np.int64], row: int) -> range:
    return range(int(np.searchsorted(window_rows, row)), int(np.searchsorted(window_rows, row, side="right")))


def _list_words(text: str) -> npt.NDArray[np.int64]:
    lengths = np.array([len(word) for word in text.split(" ")], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    return np.stack([starts, starts + lengths], axis=1)


def _tokenizer_words(examples: Examples, windows: range) -> npt.NDArray[np.int64]:
    """Character range of each of the tokenizer's words, over all windows of a row."""
    tokens = examples.tokens
    assert tokens.spans is not None
    assert tokens.words is not None
    ranges: dict[int, tuple[int, int]] = {}
    for position in range(int(tokens.offsets[windows.start]), int(tokens.offsets[windows.stop])):
        word, (start, end) = int(tokens.words[position]), tokens.spans[position]
        if word >= 0 and end > start:
            low, high = ranges.get(word, (int(start), int(end)))
            ranges[word] = (min(low, int(start)), max(high, int(end)))
    return np.array([ranges[word] for word in sorted(ranges)], np.int64).reshape(-1, 2)


def _first_tokens(examples: Examples, ranges: npt.NDArray[np.int64], base: int, stop: int) -> npt.NDArray[np.int64]:
    """For each word the first token in [base, stop) that begins in it, or -1."""
    spans = examples.tokens.spans
    assert spans is not None
    inside = base + np.flatnonzero(spans[base:stop, 1] > spans[base:stop, 0])
    found = np.full(len(ranges), -1, np.int64)
    if not len(inside) or not len(ranges):
        return found
    # a token's last character tells its word: SentencePiece tokens may begin with the space before it
    owner = np.searchsorted(ranges[:, 0], spans[inside, 1] - 1, side="right") - 1
    owned = (owner >= 0) & (spans[inside, 1] <= ranges[owner, 1])
    begins = owned & (spans[inside, 0] <= ranges[owner, 0])
    for token, word in zip(inside[begins][::-1], owner[begins][::-1], strict=True):
        found[word] = token
    return found


def _entities(text: str, words: _Words, scores: FloatArray, learned: Learned) -> list[dict[str, Any]]:
    heard = words.tokens >= 0
    best = scores[np.maximum(words.tokens, 0)].argmax(axis=1) if len(scores) else np.zeros(len(heard), np.int64)
    tags = [learned.labels[index] if is_heard else OUTSIDE for index, is_heard in zip(best, heard, strict=True)]
    entities = []
    for span in read_tags(tags):
        start, end = int(words.ranges[span.start, 0]), int(words.ranges[span.stop - 1, 1])
        start += len(text[start:end]) - len(text[start:end].lstrip())
        chosen = scores[words.tokens[span.start : span.stop], best[span.start : span.stop]]
        found = {"text": text[start:end], "label": span.label, "start": start, "end": end}
        entities.append({**found, "score": float(chosen.mean())})
    return entities
