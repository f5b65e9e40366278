"""Stored answers and entities against what transformers says of each token, within tolerances.

Nothing of the tasks' `decode` is used but the reading of tags (`tasks.tagging`) and which characters stand alone, so
that a mistake there shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.inference.reference import FreshRow
from pipeline.inference.tolerance import Tolerance
from pipeline.tasks.tagging import read_tags
from pipeline.tasks.words import is_mark, stands_alone

_NUM_BEST, _MAX_ANSWER_TOKENS = 20, 30
Span = tuple[int, int]


@dataclass
class SpanFinding:
    """What comparing one row gave."""

    differences: list[float] = field(default_factory=list)
    num_near_ties: int = 0
    problems: list[str] = field(default_factory=list)

    def differ(self, name: str, stored: float, fresh: float, tolerance: Tolerance) -> None:
        """A stored probability against fp32's."""
        difference = abs(stored - fresh)
        self.differences.append(difference)
        if difference > tolerance.score:
            self.problems.append(f"{name} differs by {difference:.4f} from fp32, more than {tolerance.score}")


def compare_answer(
    stored: Mapping[str, Any], fresh: FreshRow, options: Mapping[str, float], tolerance: Tolerance
) -> SpanFinding:
    """The answer, its place and its score, of the most likely span of a context.

    Args:
        stored: Columns answer, start, end, score, is_answerable.
        fresh: What fp32 says.
        options: The bundle's: whether it may decline, and the margin from which it does.
        tolerance: Of the score, and of the logits of two spans.
    """
    found = SpanFinding()
    spans = dict(_answers(fresh))
    best = max(spans, key=lambda span: spans[span], default=(0, 0))
    nothing = min((float(window.logits[0].sum()) for window in fresh.windows), default=0.0)
    score = _sigmoid(spans[best] - nothing) if spans else 0.0
    found.differ("score", stored["score"], score, tolerance)
    threshold = options["null_threshold"] if options["may_decline"] else np.inf
    answers = best[1] > best[0] and nothing - spans[best] < threshold
    if stored["is_answerable"] != answers:
        if abs(score - _sigmoid(-threshold)) > tolerance.score:
            found.problems.append(f"is_answerable is {stored['is_answerable']}, fp32 says {answers}")
        found.num_near_ties += not found.problems
        return found
    if answers:
        _compare_place(found, stored, fresh.text, (spans, best, tolerance.logit))
    elif (stored["answer"], stored["start"], stored["end"]) != ("", None, None):
        found.problems.append(f"answer is {stored['answer']!r}, but the row is not answerable")
    return found


def _compare_place(
    found: SpanFinding, stored: Mapping[str, Any], text: str, choice: tuple[dict[Span, float], Span, float]
) -> None:
    spans, best, slack = choice
    there = (stored["start"], stored["end"])
    if text[there[0] : there[1]] != stored["answer"]:
        found.problems.append(f"answer is {stored['answer']!r}, the text has {text[there[0] : there[1]]!r} there")
    if there == best:
        return
    if spans.get(there, -np.inf) >= spans[best] - slack:
        found.num_near_ties += 1
    else:
        found.problems.append(f"answer is {stored['answer']!r}, fp32 says {text[best[0] : best[1]]!r}")


def _answers(fresh: FreshRow) -> Iterator[tuple[Span, float]]:
    """Character ranges without outer white space and their logits, worse ones of equal ranges first."""
    tried = []
    for window in fresh.windows:
        inside = np.flatnonzero(window.spans[:, 0] >= 0)
        starts, ends = (inside[np.argsort(-window.logits[inside, k], kind="stable")][:_NUM_BEST] for k in (0, 1))
        for start in starts:
            for end in ends:
                if start <= end < start + _MAX_ANSWER_TOKENS:
                    place = (int(window.spans[start, 0]), int(window.spans[end, 1]))
                    tried.append((_trim(fresh.text, place), float(window.logits[start, 0] + window.logits[end, 1])))
    return iter(sorted(tried, key=lambda answer: answer[1]))


def compare_entities(
    stored: Sequence[Mapping[str, Any]], fresh: FreshRow, labels: Sequence[str], tolerance: Tolerance
) -> SpanFinding:
    """Entities, their places and scores, of the most likely tag of each word.

    Args:
        stored: text, label, start, end, score of each.
        fresh: What fp32 says.
        labels: Tags, in the order of the head's outputs.
        tolerance: Of a probability; where two tags of a word are within twice of it, either may be stored,
            and an entity of that word, or beside it, may end elsewhere.
    """
    found = SpanFinding()
    words = list(_heard_words(fresh))
    expected = _entities(fresh.text, words, labels)
    there = {(item["start"], item["end"], item["label"]): item for item in stored}
    found.problems += [
        f"entity is {item['text']!r}, the text has {fresh.text[start:end]!r} there"
        for (start, end, _), item in there.items()
        if fresh.text[start:end] != item["text"]
    ]
    for place in sorted(there.keys() | expected.keys()):
        if place in there and place in expected:
            found.differ(f"score of {there[place]['text']!r}", there[place]["score"], expected[place], tolerance)
        elif any(word.is_tie(tolerance) for word in _words_about(words, place[0], place[1])):
            found.num_near_ties += 1
        else:
            known = "is stored, fp32 has none" if place in there else "is missing"
            found.problems.append(f"{place[2]} {fresh.text[place[0] : place[1]]!r} at {place[0]} {known}")
    return found


@dataclass(frozen=True)
class _Word:
    """A word's character range, and the probabilities of its tags; None where the tokenizer drops it."""

    start: int
    end: int
    scores: list[float] | None

    def is_tie(self, tolerance: Tolerance) -> bool:
        if self.scores is None or len(self.scores) < 2:
            return False
        second, first = sorted(self.scores)[-2:]
        return first - second <= 2 * tolerance.score


def _words_about(words: Sequence[_Word], start: int, end: int) -> Sequence[_Word]:
    """The words of a place, the one before and the one behind, whose tags say where an entity has its edges."""
    own = [number for number, word in enumerate(words) if word.end > start and word.start < end]
    return words[max(own[0] - 1, 0) : own[-1] + 2] if own else ()


def _heard_words(fresh: FreshRow) -> Iterator[_Word]:
    """Each word with what its first token says, in the window where that stands furthest from an edge."""
    spans = [span for window in fresh.windows for span in window.spans.tolist()]
    for start, end in _list_words(fresh.text) if fresh.are_words else _tokenizer_words(fresh):
        room, scores = -1, None
        earliest = _first_token(spans, start, end)
        for window in fresh.windows:
            for token, (first, last) in enumerate(window.spans.tolist()):
                if last > first and first <= earliest < last <= end:
                    nearest_edge = min(token, len(window.spans) - 1 - token)
                    if nearest_edge > room:
                        powers = np.exp(window.logits[token] - window.logits[token].max())
                        room, scores = nearest_edge, (powers / powers.sum()).tolist()
                    break
        yield _Word(start, end, scores)


def _list_words(text: str) -> Iterator[Span]:
    start = 0
    for word in text.split(" "):
        yield start, start + len(word)
        start += len(word) + 1


def _first_token(spans: Sequence[Sequence[int]], start: int, end: int) -> int:
    """Where the first token of a word begins, but not before the word; behind the word where there is none."""
    return min([max(first, start) for first, last in spans if last > first and start < last <= end], default=end)


def _tokenizer_words(fresh: FreshRow) -> list[Span]:
    """The tokenizer's words, split between tokens where a character stands alone."""
    tokens = {
        (word, first, last)
        for window in fresh.windows
        for word, (first, last) in zip(window.words.tolist(), window.spans.tolist(), strict=True)
        if word >= 0 and last > first
    }
    ranges: list[Span] = []
    open_word = None
    for word, first, last in sorted(tokens):
        if word == open_word and not _is_split(fresh.text, ranges[-1][1], first):
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
        open_word = word
    return ranges


def _is_split(text: str, end: int, start: int) -> bool:
    alone = stands_alone(text[end - 1]) or stands_alone(text[start])
    return start >= end and alone and not is_mark(text[start])


def _entities(text: str, words: Sequence[_Word], labels: Sequence[str]) -> dict[tuple[int, int, str], float]:
    """(start, end, label) -> mean probability of its words' tags."""
    best = [0 if word.scores is None else int(np.argmax(word.scores)) for word in words]
    tags = ["O" if word.scores is None else labels[index] for word, index in zip(words, best, strict=True)]
    found = {}
    for span in read_tags(tags):
        own = range(span.start, span.stop)
        start, end = words[span.start].start, words[span.stop - 1].end
        start += len(text[start:end]) - len(text[start:end].lstrip())
        scores = [heard[best[word]] for word in own if (heard := words[word].scores) is not None]
        found[start, end, span.label] = sum(scores) / len(scores)
    return found


def _trim(text: str, span: Span) -> Span:
    inner = text[span[0] : span[1]]
    start = span[0] + len(inner) - len(inner.lstrip())
    return start, start + len(inner.strip())


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -60, 60))))
