from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.tasks.base import IGNORED, Examples, Learned
from pipeline.tasks.numbers import softmax
from pipeline.tasks.token_classification import TokenClassification
from tests.unit.tasks.parts import column, examples_of, outputs_of

TASK = TokenClassification()
LEARNED = Learned(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
NUMBERS = {label: index for index, label in enumerate(LEARNED.labels)}
TAGS = pa.list_(pa.string())
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]))
AWKWARD = [
    "the 🎉 film\r\nwas  good",
    "שלום עולם was بد good",
    "  film   was\t\tgood  ",
    "don't say e-mail, O'Neill!",
    "日本 film Ünïcödé e\u0301te",
    "the\u200bfilm \ufffd was \x00 good",
    "👩‍👩‍👧 family 🇩🇪",
]


def span(text: str, part: str, label: str) -> dict[str, Any]:
    return {"start": text.index(part), "end": text.index(part) + len(part), "label": label}


def logits_by_token(examples: Examples, seed: int = 0, num_labels: int = 5) -> np.ndarray:
    """A model that looks at nothing but the token itself."""
    table = np.random.default_rng(seed).normal(scale=3, size=(1_000, num_labels))
    return table[examples.tokens.ids].astype(np.float32)


def entities_of(examples: Examples, logits: np.ndarray, learned: Learned = LEARNED) -> list[list[dict[str, Any]]]:
    (column,) = TASK.decode(outputs_of(logits), examples, learned)
    assert column.type == TASK.output_fields()[0].type
    return column.to_pylist()


def labels_of(examples: Examples, values: np.ndarray, window: int = 0) -> list[str | None]:
    """The label of each token of a window, None where it is ignored."""
    part = values[examples.tokens.offsets[window] : examples.tokens.offsets[window + 1]]
    return [None if value == IGNORED else LEARNED.labels[int(value)] for value in part]


def spans_of(places: list[tuple[Any, Any, str]]) -> list[dict[str, Any]]:
    return [dict(zip(("start", "end", "label"), place, strict=True)) for place in places]


def places_of(judged: pa.Table, name: str) -> list[list[tuple[int, int, str]]]:
    return [[(span["start"], span["end"], span["label"]) for span in row] for row in judged[name].to_pylist()]


def test_labels_are_o_and_a_pair_for_every_kind_whatever_the_form() -> None:
    expected = Learned(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    assert TASK.learn(column([["I-PER", "O"], None, ["S-LOC"], [], ["nonsense"]], TAGS)) == expected
    rows = [[{"start": 0, "end": 1, "label": "PER"}], [], None, [{"start": 0, "end": 1, "label": "LOC"}]]
    assert TASK.learn(column(rows, SPANS)) == expected


def test_only_the_first_token_of_each_word_has_a_label(tokenizer: Any) -> None:
    """`xyz` is three tokens; `O'Neill!` is many, and one word where the text is a list."""
    examples = examples_of(tokenizer, ["the xyz O'Neill! good"], are_words=True)
    targets = TASK.window_targets(column([["O", "B-LOC", "B-PER", "I-PER"]], TAGS), examples, LEARNED)
    labels = labels_of(examples, targets.values)
    pieces = tokenizer.convert_ids_to_tokens(examples.tokens.ids)
    assert pieces[:6] == ["[CLS]", "the", "x", "##y", "##z", "o"]
    assert labels[:6] == [None, "O", "B-LOC", None, None, "B-PER"]
    assert labels[-2:] == ["I-PER", None]
    assert [label for label in labels if label] == ["O", "B-LOC", "B-PER", "I-PER"]
    assert targets.weights.tolist() == [4]


def test_any_scheme_trains_as_iob2(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["the film was good bad"] * 3, are_words=True)
    rows = ["I-PER I-PER O I-LOC B-LOC", "B-PER E-PER O S-LOC S-LOC", "B-PER L-PER O U-LOC U-LOC"]
    targets = TASK.window_targets(column([row.split() for row in rows], TAGS), examples, LEARNED)
    for window in range(3):
        labels = [label for label in labels_of(examples, targets.values, window) if label]
        assert labels == ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]


def test_tags_of_a_plain_string_count_words_between_spaces(tokenizer: Any) -> None:
    text = "O'Neill was good, they say"
    rows = column([["B-PER", "O", "O", "O", "B-LOC"]], TAGS)
    assert TASK.check(rows, (pa.chunked_array([[text]]),), LEARNED).to_pylist() == [None]
    as_words, as_string = (examples_of(tokenizer, [text], are_words=are_words) for are_words in (True, False))
    expected = TASK.window_targets(rows, as_words, LEARNED)
    assert TASK.window_targets(rows, as_string, LEARNED).values.tolist() == expected.values.tolist()


def test_a_word_that_the_tokenizer_drops_has_no_loss_and_no_entity(tokenizer: Any) -> None:
    text = "the \u200d film"
    examples = examples_of(tokenizer, [text], are_words=True)
    rows = column([["B-PER", "B-LOC", "I-LOC"]], TAGS)
    targets = TASK.window_targets(rows, examples, LEARNED)
    assert labels_of(examples, targets.values) == [None, "B-PER", "I-LOC", None]
    assert targets.weights.tolist() == [2]
    logits = np.eye(5)[[0, NUMBERS["B-LOC"], NUMBERS["B-LOC"], 0]] * 9
    assert [entity["text"] for entity in entities_of(examples, logits)[0]] == ["the", "film"]
    judged = TASK.judge([outputs_of(logits)], examples, rows, LEARNED)
    assert places_of(judged, "truth") == [[(0, 1, "PER"), (1, 3, "LOC")]]
    assert places_of(judged, "predicted") == [[(0, 1, "LOC"), (2, 3, "LOC")]]


def test_character_spans_label_the_words_they_touch(tokenizer: Any) -> None:
    text = "the lovely film was  good, bad"
    rows = column([[span(text, "good", "LOC"), span(text, "vely film", "PER")], []], SPANS)
    examples = examples_of(tokenizer, [text, "good"])
    targets = TASK.window_targets(rows, examples, LEARNED)
    labels = [label for label in labels_of(examples, targets.values) if label]
    assert labels == ["O", "B-PER", "I-PER", "O", "B-LOC", "O", "O"]
    assert [label for label in labels_of(examples, targets.values, 1) if label] == ["O"]
    texts = (pa.chunked_array([[text, "good"]]),)
    assert TASK.check(rows, texts, LEARNED).to_pylist() == [None, None]


@pytest.mark.parametrize("are_words", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_an_entity_is_the_text_between_its_offsets(tokenizer: Any, seed: int, are_words: bool) -> None:
    examples = examples_of(tokenizer, AWKWARD, are_words=are_words)
    found = entities_of(examples, logits_by_token(examples, seed))
    assert sum(map(len, found)) > 5
    for text, entities in zip(AWKWARD, found, strict=True):
        for entity in entities:
            assert text[entity["start"] : entity["end"]] == entity["text"] != ""
            assert not entity["text"][0].isspace()
            assert 0 < entity["score"] <= 1
        borders = [edge for entity in entities for edge in (entity["start"], entity["end"])]
        assert borders == sorted(borders)


def test_right_to_left_and_emoji_offsets_count_characters(tokenizer: Any) -> None:
    text = "🎉🎉 שלום the film"
    examples = examples_of(tokenizer, [text])
    start = examples.tokens.spans
    assert start is not None
    logits = np.zeros((len(examples.tokens.ids), 5))
    logits[:, 0] = 1
    logits[start[:, 0] == text.index("שלום"), NUMBERS["B-PER"]] = 5
    logits[start[:, 0] == text.index("film"), NUMBERS["B-LOC"]] = 5
    found = [(entity["text"], entity["start"], entity["label"]) for entity in entities_of(examples, logits)[0]]
    assert found == [("שלום", 3, "PER"), ("film", 12, "LOC")]


def test_the_score_is_the_mean_probability_of_the_words_chosen_labels(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["the film was"], are_words=True)
    logits = np.zeros((5, 5), np.float32)
    logits[1, NUMBERS["B-PER"]], logits[2, NUMBERS["I-PER"]], logits[3, NUMBERS["O"]] = 2, 3, 4
    ((entity,),) = entities_of(examples, logits)
    scores = softmax(logits)
    expected = (scores[1, NUMBERS["B-PER"]] + scores[2, NUMBERS["I-PER"]]) / 2
    assert entity == {"text": "the film", "label": "PER", "start": 0, "end": 8, "score": pytest.approx(expected)}


@pytest.mark.parametrize("are_words", [False, True])
@pytest.mark.parametrize(("max_length", "stride"), [(12, 4), (16, 0), (20, 10)])
def test_windows_find_what_one_long_window_finds(tokenizer: Any, are_words: bool, max_length: int, stride: int) -> None:
    texts = [" ".join(AWKWARD * 2), "good", " ".join(f"w{number} the film," for number in range(20))]
    whole = examples_of(tokenizer, texts, are_words=are_words, max_length=1_000)
    cut = examples_of(tokenizer, texts, are_words=are_words, max_length=max_length, long_text="window", stride=stride)
    assert cut.tokens.row_windows.max() > 5
    expected, found = (entities_of(examples, logits_by_token(examples)) for examples in (whole, cut))
    assert found == expected


def test_a_word_cut_by_a_window_is_heard_where_its_first_token_stands_furthest_from_an_edge(tokenizer: Any) -> None:
    text = " ".join(["film"] * 30)
    examples = examples_of(tokenizer, [text], are_words=True, max_length=12, long_text="window", stride=6)
    tokens = examples.tokens
    logits = np.zeros((len(tokens.ids), 5), np.float32)
    logits[:, 0] = 1
    for window in range(len(tokens)):
        base, stop = int(tokens.offsets[window]), int(tokens.offsets[window + 1])
        for edge in (base + 1, stop - 2):  # at an edge the model claims an entity; only the text's own edges count
            logits[edge, NUMBERS["B-PER"]] = 9
    (found,) = entities_of(examples, logits)
    assert [entity["start"] for entity in found] == [0, len(text) - 4]


def test_every_window_that_holds_a_word_trains_on_it(tokenizer: Any) -> None:
    examples = examples_of(
        tokenizer, ["the film was good bad great"] * 2, are_words=True, max_length=5, long_text="window", stride=1
    )
    tags = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
    targets = TASK.window_targets(column([tags, tags], TAGS), examples, LEARNED)
    labels = [labels_of(examples, targets.values, window)[1:-1] for window in range(len(examples.tokens))]
    assert labels[: len(labels) // 2] == labels[len(labels) // 2 :]
    assert labels[:3] == [tags[0:3], tags[2:5], tags[4:6]]
    assert targets.weights.tolist() == [3, 3, 2] * 2
    assert targets.offsets.tolist() == examples.tokens.offsets.tolist()


def test_the_rest_of_a_word_that_a_window_cuts_has_no_label(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["the xyzxyz"], are_words=True, max_length=6, long_text="window", stride=0)
    targets = TASK.window_targets(column([["O", "B-PER"]], TAGS), examples, LEARNED)
    assert [labels_of(examples, targets.values, window) for window in range(2)] == [
        [None, "O", "B-PER", None, None, None],
        [None] * 5,
    ]
    assert targets.weights.tolist() == [2, 0]


def test_targets_that_cannot_be_used_are_told_apart() -> None:
    texts = (pa.chunked_array([["a b"] * 6]),)
    rows = [["O", "B-PER"], ["O"], None, ["O", "X-PER"], ["O", "B-ORG"], ["O", None]]
    reasons = TASK.check(column(rows, TAGS), texts, LEARNED).to_pylist()
    assert reasons[:3] == [None, "1 tags for 2 words", "tags are null"]
    assert reasons[3].startswith("tag 'X-PER'; expected O")
    assert reasons[4] == "label is unknown: ORG"
    assert reasons[5] == "a tag is null"


def test_character_spans_that_cannot_be_used_are_told_apart() -> None:
    rows: dict[str | None, Any] = {
        None: [(0, 1, "PER"), (2, 3, "LOC"), (0, 1, "PER")],
        "tags are null": None,
        "span 0-4 is outside the text": [(0, 4, "PER")],
        "span 1-1 is outside the text": [(1, 1, "PER")],
        "a span has nulls": [(None, 2, "PER")],
        "span 0-1 has an empty label": [(0, 1, "")],
        "label is unknown: ORG": [(0, 1, "ORG")],
        "spans 0-3 and 2-3 overlap; a word has one label": [(2, 3, "PER"), (0, 3, "LOC")],
        "spans 0-1 and 0-1 overlap; a word has one label": [(0, 1, "PER"), (0, 1, "LOC")],
    }
    targets = column([row and spans_of(row) for row in rows.values()], SPANS)
    texts = (pa.chunked_array([["a b"] * len(rows)]),)
    assert TASK.check(targets, texts, LEARNED).to_pylist() == list(rows)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_labels_of_spans_are_strings_of_any_kind(kind: pa.DataType) -> None:
    spans = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", kind)]))
    assert TASK.learn(column([spans_of([(0, 1, "PER")])], spans)).labels == ("O", "B-PER", "I-PER")


@pytest.mark.parametrize("name", ["start", "end", "label"])
def test_spans_of_other_fields_are_refused(name: str) -> None:
    span = {"start": 0, "end": 1, "label": "PER"}
    renamed = {"other" if key == name else key: value for key, value in span.items()}
    for wrong in (renamed, {**span, name: [0]}):
        with pytest.raises(TypeError, match="expected list<struct<start: int, end: int, label: string>>"):
            TASK.learn(column([[wrong]]))


def test_entities_of_character_spans_are_judged_by_their_characters(tokenizer: Any) -> None:
    texts = ["the film was good", "the film was lovely bad"]
    examples = examples_of(tokenizer, texts, max_length=6)  # of the second text one word is cut off
    truth = [[(4, 9, "PER")], [(4, 7, "LOC"), (20, 23, "PER")]]  # with a space behind; a part of a word; cut off
    tags = ["O", "O", "B-PER", "O", "O", "O", "O", "O", "B-LOC", "O", "O", "O"]
    judged = TASK.judge(
        [outputs_of(np.eye(5)[[NUMBERS[tag] for tag in tags]])],
        examples,
        column([spans_of(row) for row in truth], SPANS),
        LEARNED,
    )
    assert places_of(judged, "truth") == [[(4, 8, "PER")], [(4, 7, "LOC"), (20, 23, "PER")]]
    assert places_of(judged, "predicted") == [[(4, 8, "PER")], [(4, 8, "LOC")]]
    figures = TASK.evaluate(judged, LEARNED).metrics
    assert figures == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 0.4, "word_accuracy": 1.0})


def test_the_loss_is_over_labelled_tokens_only() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32))
    targets = torch.tensor([[IGNORED, 1, 2, IGNORED], [IGNORED, 4, IGNORED, IGNORED]])
    scores = torch.log_softmax(logits, dim=-1)
    expected = -(scores[0, 1, 1] + scores[0, 2, 2] + scores[1, 1, 4])
    torch.testing.assert_close(TASK.loss_sum(logits, targets), expected)
    assert TASK.loss_sum(logits, torch.full((2, 4), IGNORED)).item() == 0


def test_figures_by_hand(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, ["the film was good", "bad table"], are_words=True)
    predicted = ["O", "B-PER", "I-PER", "O", "B-LOC", "O", "O", "B-LOC", "O", "O"]
    logits = np.eye(5)[[NUMBERS[label] for label in predicted]]
    truth = column([["B-PER", "I-PER", "O", "O"], ["B-PER", "O"]], TAGS)
    judged = TASK.judge([outputs_of(logits)], examples, truth, LEARNED)
    result = TASK.evaluate(judged, LEARNED)
    assert result.metrics == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "word_accuracy": 4 / 6})
    assert (result.num_rows, TASK.tune(judged, LEARNED)) == (2, LEARNED)


def test_no_rows_give_zeros_and_no_warning(tokenizer: Any) -> None:
    examples = examples_of(tokenizer, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged = TASK.judge([outputs_of(np.zeros((0, 0)))], examples, column([], TAGS), LEARNED)
        assert set(TASK.evaluate(judged, LEARNED).metrics.values()) == {0.0}
        assert entities_of(examples, np.zeros((0, 0))) == []
        assert len(TASK.window_targets(column([], TAGS), examples, LEARNED).weights) == 0


def test_a_column_that_is_no_list_is_refused_row_by_row() -> None:
    reasons = TASK.check(column(["B-PER O"]), (pa.chunked_array([["a b"]]),), LEARNED).to_pylist()
    assert reasons == ["tags are no list"]
    with pytest.raises(TypeError, match="expected lists: a tag for each word, or"):
        TASK.learn(column(["B-PER O"]))


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        (pa.list_(pa.int64()), [[3, 0]], "a tag is 3; expected text such as B-PER"),
        (TAGS, [["PER", "O"]], "tag 'PER'; expected O, or B-"),
        (TAGS, [[None, "O"]], "a tag is None; expected text"),
    ],
)
def test_tags_of_which_none_can_be_read_say_why(kind: pa.DataType, rows: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TASK.learn(column(rows, kind))
    assert TASK.learn(column([["O"], []], TAGS)).labels == ("O",)
