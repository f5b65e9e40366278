from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig

from pipeline.encoder.forward import lay_out
from pipeline.encoder.model import load_network
from pipeline.encoder.tokenize import Padding
from pipeline.finetune.step import _batch_targets
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.base import IGNORED, Examples, Learned
from pipeline.tasks.question_answering import QuestionAnswering
from tests.tiny import make_network
from tests.unit.tasks.parts import column, examples_of, outputs_of

TASK = QuestionAnswering()
ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
ALWAYS = Learned((), {"may_decline": 0.0, "null_threshold": 0.0})
CONTEXT = "The film was SUPERB, and  it is seven\r\nlovely tables 🎉 long; the end was bad and round and dull."
LONG = f"{CONTEXT} {CONTEXT.replace('SUPERB', 'poor')} the blue one was great"


def answers(context: str, *texts: str) -> dict[str, Any]:
    return {"text": list(texts), "answer_start": [context.index(text) for text in texts]}


def targets_of(*rows: dict[str, Any] | None) -> pa.ChunkedArray:
    return column(list(rows), ANSWERS)


def pointing_at(examples: Examples, *spots: tuple[int, int] | None, null_logit: float = 0.0) -> np.ndarray:
    """Logits whose peaks are at the tokens of a character range per row (None: nowhere)."""
    tokens = examples.tokens
    assert tokens.spans is not None
    logits = np.zeros((len(tokens.ids), 2), np.float32)
    rows = np.repeat(tokens.window_rows, tokens.lengths)
    logits[tokens.offsets[:-1]] = null_logit / 2
    for row, spot in enumerate(spots):
        if spot is not None:
            logits[(rows == row) & (tokens.spans[:, 0] == spot[0]), 0] = 9
            logits[(rows == row) & (tokens.spans[:, 1] == spot[1]), 1] = 9
    return logits


def decode(examples: Examples, logits: np.ndarray, learned: Learned = ALWAYS) -> list[dict[str, Any]]:
    arrays = TASK.decode(outputs_of(logits), examples, learned)
    schema = pa.schema(TASK.output_fields())
    return pa.table(arrays, schema=schema).to_pylist()


@pytest.mark.parametrize("answer", ["SUPERB", "seven\r\nlovely", "and  it is", "🎉", "The", "dull."])
def test_an_answer_is_the_very_text_of_the_context(tokenizer: Any, answer: str) -> None:
    examples = examples_of(tokenizer, ["was it?"], [CONTEXT], long_text="window", max_length=64)
    start = CONTEXT.index(answer)
    (found,) = decode(examples, pointing_at(examples, (start, start + len(answer))))
    assert (found["answer"], found["start"], found["end"]) == (answer, start, start + len(answer))
    assert found["is_answerable"]
    assert found["score"] == pytest.approx(1 / (1 + np.exp(-18)))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_logits_an_answer_is_a_substring_of_its_context(tokenizer: Any, seed: int) -> None:
    contexts = [LONG, CONTEXT, "שלום עולם good", "  a b  "]
    examples = examples_of(tokenizer, ["q"] * 4, contexts, long_text="window", max_length=16, stride=4)
    logits = np.random.default_rng(seed).normal(size=(len(examples.tokens.ids), 2))
    for context, found in zip(contexts, decode(examples, logits), strict=True):
        assert found["answer"] == context[found["start"] : found["end"]] != ""
        assert found["answer"] == found["answer"].strip()


@pytest.mark.parametrize("answer", ["SUPERB", "poor", "blue one was great"])
def test_an_answer_is_found_in_whichever_window_it_stands(tokenizer: Any, answer: str) -> None:
    examples = examples_of(
        tokenizer, ["good?", "what was it?"], [CONTEXT, LONG], long_text="window", max_length=20, stride=6
    )
    assert examples.tokens.row_windows.min() > 2
    start = LONG.index(answer)
    first, second = decode(examples, pointing_at(examples, (0, 3), (start, start + len(answer))))
    assert (first["answer"], second["answer"], second["start"]) == ("The", answer, start)


def test_targets_mark_the_answer_where_it_is_whole_and_the_first_token_elsewhere(tokenizer: Any) -> None:
    answer = answers(LONG, "poor, and  it is", "film")
    examples = examples_of(tokenizer, ["good?", "bad?"], [LONG, LONG], long_text="window", max_length=20, stride=8)
    numbers = TASK.window_targets(targets_of(answer, {"text": [], "answer_start": []}), examples, ALWAYS)
    tokens, start = examples.tokens, LONG.index("poor")
    assert tokens.spans is not None
    assert numbers.offsets.tolist() == tokens.offsets.tolist()
    assert numbers.weights.tolist() == [1] * len(tokens)
    whole = 0
    for window, row in enumerate(tokens.window_rows):
        part = slice(int(tokens.offsets[window]), int(tokens.offsets[window + 1]))
        marks, spans = numbers.values[part], tokens.spans[part]
        starts, ends = spans[:, 0] == start, spans[:, 1] == start + len("poor, and  it is")
        if row == 0 and starts.any() and ends.any():
            whole += 1
            assert marks.tolist() == (starts + 2 * ends).tolist()
        else:
            assert marks.tolist() == [3] + [0] * (len(marks) - 1)
    assert whole >= 1


def test_an_answer_of_one_token_is_start_and_end_at_once(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["good?"], ["the film"], long_text="window")
    numbers = TASK.window_targets(targets_of(answers("the film", "film")), examples, ALWAYS)
    assert numbers.values.tolist() == [0, 0, 0, 0, 0, 3, 0]


def test_the_loss_is_that_of_each_window_alone_whatever_is_padded(tokenizer: Any) -> None:
    contexts = ["the film was good", "bad", "seven blue tables and a round one"]
    examples = examples_of(tokenizer, ["q", "why was it?", "r"], contexts, long_text="window")
    answer = [answers(contexts[0], "film was"), answers(contexts[1], "bad"), {"text": [], "answer_start": []}]
    data = TokenData(examples.tokens, TASK.window_targets(targets_of(*answer), examples, ALWAYS))
    logits = np.random.default_rng(0).normal(size=(len(examples.tokens.ids), 2)).astype(np.float32)
    rows = np.arange(3)
    batch = lay_out(data.rows, rows, make_network().base_model, Padding(0), torch.device("cpu"))
    targets = _batch_targets(data, rows, batch, over_tokens=True)
    padded = np.full((*targets.shape, 2), 50, np.float32)  # padding would win if it were looked at
    padded[targets != IGNORED] = logits
    expected = 0.0
    for row in rows:
        part = slice(int(data.rows.offsets[row]), int(data.rows.offsets[row + 1]))
        marks = data.targets.values[part].astype(int)
        for column_index, bit in ((0, 1), (1, 2)):
            scores = torch.log_softmax(torch.from_numpy(logits[part, column_index]), 0)
            expected -= float(scores[int(np.flatnonzero(marks & bit)[0])]) / 2
    loss = TASK.loss_sum(torch.from_numpy(padded), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_declining_is_learned_from_usable_rows_only() -> None:
    answered, empty = {"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}
    assert TASK.learn(targets_of(answered, answered)).options["may_decline"] == 0
    assert TASK.learn(targets_of(answered, empty)).options["may_decline"] == 1
    assert TASK.learn(targets_of(answered, None, {"text": None, "answer_start": None})).options["may_decline"] == 0


def test_a_bundle_that_may_decline_answers_below_its_threshold(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["q"], [CONTEXT], long_text="window")
    logits = pointing_at(examples, (0, 3), null_logit=16)  # margin 16 - 18
    for threshold, answer in ((-1.5, "The"), (-2.5, "")):
        learned = Learned((), {"may_decline": 1.0, "null_threshold": threshold})
        (found,) = decode(examples, logits, learned)
        assert (found["answer"], found["is_answerable"]) == (answer, bool(answer))
        assert (found["start"] is None) == (not answer)
    (found,) = decode(examples, pointing_at(examples, (0, 3), null_logit=99))
    assert found["answer"] == "The"


def test_figures_by_hand_with_and_without_declining(tokenizer: Any) -> None:
    contexts = ["the film was good", "bad table", "seven tables", "blue one"]
    examples = examples_of(tokenizer, ["q"] * 4, contexts, long_text="window")
    none: dict[str, Any] = {"text": [], "answer_start": []}
    targets = targets_of(answers(contexts[0], "film"), answers(contexts[1], "bad table"), none, none)
    logits = pointing_at(examples, (4, 8), (0, 3), (0, 5), None)
    judged = TASK.judge([outputs_of(logits)], examples, targets, ALWAYS)
    assert judged["answerable"].to_pylist() == [True, True, False, False]
    assert judged["margin"].to_pylist() == [-18, -18, -18, 0]
    always = TASK.evaluate(judged, ALWAYS).metrics
    assert always["exact_match"] == pytest.approx(25)
    assert always["f1"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert always["no_answer_accuracy"] == 0
    tuned = TASK.tune(judged, Learned((), {"may_decline": 1.0, "null_threshold": -99.0}))
    assert -18 < tuned.options["null_threshold"] <= 0
    figures = TASK.evaluate(judged, tuned).metrics
    assert figures["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1) / 4)
    assert figures["no_answer_accuracy"] == 50
    assert figures["answerable_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert TASK.tune(judged, ALWAYS) == ALWAYS


def test_a_context_without_tokens_is_declined_and_spoils_no_threshold(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["q", "q"], ["\u200d", "good"], long_text="window")
    logits = pointing_at(examples, None, (0, 4))
    found = decode(examples, logits)
    assert [(row["answer"], row["is_answerable"]) for row in found] == [("", False), ("good", True)]
    targets = targets_of({"text": [], "answer_start": []}, answers("good", "good"))
    judged = TASK.judge([outputs_of(logits)], examples, targets, ALWAYS)
    tuned = TASK.tune(judged, Learned((), {"may_decline": 1.0, "null_threshold": 0.0}))
    assert json.loads(json.dumps(tuned.options, allow_nan=False)) == tuned.options
    assert TASK.evaluate(judged, tuned).metrics["exact_match"] == 100


def test_an_article_alone_is_no_answer_as_in_squad_s_script(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["q", "q"], ["the film", "the film"], long_text="window")
    targets = targets_of(answers("the film", "the"), answers("the film", "the film"))
    judged = TASK.judge([outputs_of(pointing_at(examples, None, (4, 8)))], examples, targets, ALWAYS)
    assert judged["answerable"].to_pylist() == [False, True]
    declining = Learned((), {"may_decline": 1.0, "null_threshold": -1.0})
    assert TASK.evaluate(judged, declining).metrics["exact_match"] == 100


def test_answers_that_do_not_stand_in_the_context_are_refused() -> None:
    rows = [
        answers(CONTEXT, "SUPERB", "lovely"),
        {"text": ["SUPERB"], "answer_start": [3]},
        {"text": ["a", "b"], "answer_start": [0]},
        {"text": None, "answer_start": [0]},
        None,
        {"text": [], "answer_start": []},
    ]
    texts = [pa.chunked_array([[text] * len(rows)]) for text in ("q", CONTEXT)]
    reasons = TASK.check(targets_of(*rows), texts, ALWAYS).to_pylist()
    assert reasons == [
        None,
        "answer_start 3 does not match the context: ' film '",
        "2 answer texts and 1 starts",
        "answers are null",
        "answers are null",
        None,
    ]


def test_no_rows_give_no_figures_and_no_warning(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, [], [], long_text="window")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged = TASK.judge([outputs_of(np.zeros((0, 2)))], examples, targets_of(), ALWAYS)
        assert TASK.evaluate(judged, ALWAYS).metrics == {}
        assert decode(examples, np.zeros((0, 0))) == []


def test_a_head_has_a_start_and_an_end_whatever_classes_the_encoder_names(encoder_directory: Path) -> None:
    assert len(AutoConfig.from_pretrained(encoder_directory).id2label) == 3
    network = load_network(encoder_directory, TASK.head_class, **TASK.head_config(ALWAYS))
    assert network.qa_outputs.out_features == 2


@pytest.mark.parametrize(
    "answers",
    [
        pa.array(["x"]),
        pa.array([[{"text": "x", "answer_start": 0}]]),
        pa.array([{"text": "x", "answer_start": 0}]),
        pa.array([{"text": ["x"], "answer_start": [0.0]}]),
    ],
)
def test_answers_of_another_type_are_refused(answers: pa.Array) -> None:
    with pytest.raises(TypeError, match="expected struct<text: list<string>, answer_start: list<int32>>"):
        TASK.learn(pa.chunked_array([answers]))


def test_an_empty_answer_is_none_at_all(tokenizer: Any) -> None:
    empty = column([{"text": [""], "answer_start": [-1]}], ANSWERS)
    learned = TASK.learn(empty)
    examples = examples_of(tokenizer, ["why?"], [CONTEXT], long_text="window", max_length=64)
    assert learned.options["may_decline"] == 1
    assert TASK.check(empty, list(examples.texts), learned).to_pylist() == [None]
    assert TASK.window_targets(empty, examples, learned).values[0] == 3
    judged = TASK.judge([outputs_of(np.zeros((len(examples.tokens.ids), 2), np.float32))], examples, empty, learned)
    assert judged["answerable"].to_pylist() == [False]
