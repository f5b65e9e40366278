"""question-answering: the part of a context that answers a question, or that there is none.

Targets are SQuAD's: a struct of `text` and `answer_start` lists, empty where there is no answer. A long context is
always windowed, and one span is chosen over all its windows; a span is a substring of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.schema import is_text
from pipeline.tasks.base import Evaluation, Examples, FloatArray, Learned, WindowTargets
from pipeline.tasks.spans import SpanLimits, best_spans
from pipeline.tasks.squad import exact_match, token_f1, tune_threshold

if TYPE_CHECKING:
    import torch

    from pipeline.encoder.outputs import ModelOutputs

START, END = 1, 2  # marks of tokens, which add up
_LIMITS = SpanLimits()
_JUDGED = pa.schema(
    [
        ("answerable", pa.bool_()),
        ("margin", pa.float32()),
        ("exact_if_answered", pa.float32()),
        ("f1_if_answered", pa.float32()),
    ]
)


class QuestionAnswering:
    """Two outputs per token, start and end of the answer; both at the first token where there is none."""

    name = "question-answering"
    bundled_as = "question-answering"
    inputs: tuple[str, ...] = ("question", "context")
    labelled_inputs: tuple[tuple[str, ...], ...] = (("question", "context"),)
    optional_inputs: tuple[str, ...] = ()
    target = "answers"
    needs_target = True
    compares_rows = False
    hides_tokens = False
    pairs_windows = False
    head_class = "AutoModelForQuestionAnswering"
    needs_spans = True
    windows_always = True
    classes_of: Literal["rows", "tokens"] | None = None
    metrics: tuple[str, ...] = ("exact_match", "f1", "answerable_f1", "no_answer_accuracy")
    main_metric = "f1"

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Whether unanswerable questions occur: only then does the bundle ever decline.

        Raises:
            TypeError: answers are of another type than SQuAD's.
        """
        _check_type(targets.type)
        answered = [bool(_golds(row)) for row in targets.to_pylist() if row and row["text"] is not None]
        return Learned((), {"may_decline": float(not all(answered)), "null_threshold": 0.0})

    def head_config(self, learned: Learned) -> dict[str, object]:
        """Start and end, whatever classes the encoder's configuration still names."""
        return {"num_labels": 2}

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """Every answer stands in its context where `answer_start` says.

        Raises:
            TypeError: answers are of another type than SQuAD's.
        """
        _check_type(targets.type)
        pairs = zip(targets.to_pylist(), texts[1].to_pylist(), strict=True)
        return pa.array([_problem(answers, context) for answers, context in pairs], pa.string())

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """[T]: 1 on the first answer's first token, 2 on its last, 3 on both; on the first token if it is not here."""
        tokens = examples.tokens
        assert tokens.spans is not None
        values = np.zeros(len(tokens.ids), np.float32)
        answers = targets.to_pylist()
        for window, row in enumerate(tokens.window_rows):
            base, stop = int(tokens.offsets[window]), int(tokens.offsets[window + 1])
            start, end = _answer_tokens(answers[row], tokens.spans[base:stop])
            values[base + start] += START
            values[base + end] += END
        return WindowTargets(values, tokens.offsets, np.ones(len(tokens), np.int64))

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean of the two cross-entropies over positions; padding cannot be chosen."""
        from torch.nn.functional import cross_entropy

        marks = targets.long().clamp(min=0)
        open_BS1 = (targets >= 0).unsqueeze(-1)
        masked = logits.float().masked_fill(~open_BS1, -1e9)
        starts, ends = (marks & START).argmax(dim=1), (marks & END).argmax(dim=1)
        start_loss = cross_entropy(masked[..., 0], starts, reduction="sum")
        return (start_loss + cross_entropy(masked[..., 1], ends, reduction="sum")) / 2

    def output_fields(self) -> list[pa.Field]:
        """The answer (empty if declined), its character range, its score, and whether there is one.

        `score` is a probability: of the best span against all starts and ends tried, and no answer.
        """
        return [
            pa.field("answer", pa.string()),
            pa.field("start", pa.int32()),
            pa.field("end", pa.int32()),
            pa.field("score", pa.float32()),
            pa.field("is_answerable", pa.bool_()),
        ]

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """The best span over all windows of each row."""
        best = _best_answers(outputs.logits, examples)
        answered = best.ends > best.starts
        if learned.options["may_decline"]:
            answered &= best.margins < learned.options["null_threshold"]
        declined = ~answered
        scores = 1.0 / (1.0 + np.exp(np.clip(best.margins, -60, 60)))
        return [
            pa.array([text if kept else "" for text, kept in zip(best.texts, answered, strict=True)], pa.string()),
            pa.array(best.starts, pa.int32(), mask=declined),
            pa.array(best.ends, pa.int32(), mask=declined),
            pa.array(scores.astype(np.float32)),
            pa.array(answered),
        ]

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """How far the best span is ahead of the next, or its null margin from the threshold, whichever is less."""
        best = best_spans(outputs.logits, examples.tokens, _LIMITS)
        with np.errstate(invalid="ignore"):  # without any span
            found = (best.logits - best.runners_up).astype(np.float64)
        if learned.options["may_decline"]:
            found = np.minimum(found, np.abs(best.null_margins - learned.options["null_threshold"]))
        return np.nan_to_num(found, nan=np.inf).astype(np.float32)

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """For each question: whether it has an answer, the null margin, and EM and F1 of the best span."""
        best, golds = _best_answers(outputs[0].logits, examples), [_golds(row) for row in targets.to_pylist()]
        pairs = list(zip(best.texts, golds, strict=True))
        columns = [
            [not exact_match("", gold) for gold in golds],  # "the" is no answer to SQuAD's script
            best.margins.astype(np.float32),
            [exact_match(text, gold) for text, gold in pairs],
            [token_f1(text, gold) for text, gold in pairs],
        ]
        return pa.table(columns, schema=_JUDGED)

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """The null margin below which answering gives the best F1; only if questions may have no answer."""
        if not learned.options["may_decline"] or judged.num_rows == 0:
            return learned
        margins, f1 = judged["margin"].to_numpy(), judged["f1_if_answered"].to_numpy()
        heard = np.isfinite(margins)  # a context without tokens is never answered, whatever the threshold
        threshold = tune_threshold(margins[heard], f1[heard], judged["answerable"].to_numpy()[heard])
        return Learned(learned.labels, {**learned.options, "null_threshold": threshold})

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """EM and F1 in percent, as SQuAD reports them, overall and by kind of question."""
        if not judged.num_rows:
            return Evaluation(0, {})
        answerable = judged["answerable"].to_numpy()
        margins = judged["margin"].to_numpy()
        answered = np.ones(len(margins), np.bool_)
        if learned.options["may_decline"]:
            answered = margins < learned.options["null_threshold"]
        exact = np.where(answered, judged["exact_if_answered"].to_numpy(), ~answerable)
        f1 = np.where(answered, judged["f1_if_answered"].to_numpy(), ~answerable)
        metrics = {"exact_match": 100 * float(exact.mean()), "f1": 100 * float(f1.mean())}
        if answerable.any() and not answerable.all():
            metrics["answerable_f1"] = 100 * float(f1[answerable].mean())
            metrics["no_answer_accuracy"] = 100 * float((~answered[~answerable]).mean())
        return Evaluation(judged.num_rows, metrics)


def _check_type(kind: pa.DataType) -> None:
    fields = {field.name: getattr(field.type, "value_type", None) for field in kind} if pa.types.is_struct(kind) else {}
    text, start = fields.get("text"), fields.get("answer_start")
    has_texts = text is not None and (is_text(text) or pa.types.is_null(text))
    if not has_texts or start is None or not (pa.types.is_integer(start) or pa.types.is_null(start)):
        raise TypeError("expected struct<text: list<string>, answer_start: list<int32>>, as SQuAD has them")


def _golds(answers: dict[str, Any]) -> list[str]:
    """Answers that say something; an empty one is how some data sets write that there is none."""
    return [text for text in answers["text"] if text]


def _problem(answers: dict[str, Any] | None, context: str) -> str | None:
    if answers is None or answers.get("text") is None or answers.get("answer_start") is None:
        return "answers are null"
    if len(answers["text"]) != len(answers["answer_start"]):
        return f"{len(answers['text'])} answer texts and {len(answers['answer_start'])} starts"
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if text is None or start is None:
            return "answers are null"
        there = context[start : start + len(text)] if start >= 0 else ""
        if text and there != text:
            return f"answer_start {start} does not match the context: {there!r}"
    return None


def _answer_tokens(answers: dict[str, Any], spans: npt.NDArray[np.int32]) -> tuple[int, int]:
    """First and last token of the first answer in a window; (0, 0) if it is not wholly in it."""
    first = next((place for place, text in enumerate(answers["text"]) if text), None)
    if first is None:
        return 0, 0
    start = answers["answer_start"][first]
    end = start + len(answers["text"][first])
    inside = np.flatnonzero((spans[:, 0] >= 0) & (spans[:, 1] > start) & (spans[:, 0] < end))
    context = np.flatnonzero(spans[:, 0] >= 0)
    if not len(inside) or spans[context[0], 0] > start or spans[context[-1], 1] < end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


@dataclass(frozen=True)
class _BestAnswers:
    """The best answer of each row, whether or not it is given.

    Attributes:
        texts: The answers, without white space around them.
        starts, ends: int64 [R]; their character ranges.
        margins: float64 [R]; how much better no answer is.
    """

    texts: list[str]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    margins: npt.NDArray[np.float64]


def _best_answers(logits: FloatArray, examples: Examples) -> _BestAnswers:
    """Of every row; some tokenizers count white space to a token, and it is no part of an answer."""
    best = best_spans(logits, examples.tokens, _LIMITS)
    contexts, ranges = examples.texts[1].to_pylist(), zip(best.starts.tolist(), best.ends.tolist(), strict=True)
    whole = [context[start:end] for context, (start, end) in zip(contexts, ranges, strict=True)]
    texts = [text.strip() for text in whole]
    starts = best.starts + np.array([len(text) - len(text.lstrip()) for text in whole], np.int64)
    return _BestAnswers(texts, starts, starts + np.array([len(text) for text in texts], np.int64), best.null_margins)
