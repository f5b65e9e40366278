from __future__ import annotations

import random

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOBES, Entities

from pipeline.tasks.tagging import TagSpan, read_tags, score_entities, split_tag, write_tags

LABELS = ("LOC", "ORG", "PER-1")


def random_iob2(draw: random.Random, num_words: int) -> list[str]:
    """Entities of one to four words, some of them side by side."""
    tags: list[str] = []
    while len(tags) < num_words:
        label = draw.choice(LABELS)
        tags += ["O"] if draw.random() < 0.4 else [f"B-{label}"] + [f"I-{label}"] * draw.randint(0, 3)
    return tags[:num_words]


def random_tags(draw: random.Random, num_words: int, prefixes: str) -> list[str]:
    """Any tags at all, in no scheme's order."""
    return ["O" if draw.random() < 0.3 else f"{draw.choice(prefixes)}-{draw.choice(LABELS)}" for _ in range(num_words)]


def as_seqeval(spans: list[TagSpan]) -> list[tuple[str, int, int]]:
    return [(span.label, span.start, span.stop - 1) for span in spans]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_entities_are_those_of_seqeval_even_where_tags_are_out_of_order(prefixes: str, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(200):
        tags = random_tags(draw, draw.randint(0, 12), prefixes)
        assert as_seqeval(read_tags(tags)) == get_entities(tags), tags


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_seqeval(seed: int) -> None:
    draw = random.Random(seed)
    gold = [random_iob2(draw, draw.randint(1, 15)) for _ in range(60)]
    predicted = [
        [tag if draw.random() < 0.8 else other for tag, other in zip(row, random_iob2(draw, len(row)), strict=True)]
        for row in gold
    ]
    scores = score_entities(map(read_tags, gold), map(read_tags, predicted))
    assert 0.1 < scores.f1 < 0.95
    assert scores.precision == pytest.approx(precision_score(gold, predicted))
    assert scores.recall == pytest.approx(recall_score(gold, predicted))
    assert scores.f1 == pytest.approx(f1_score(gold, predicted))


def test_nothing_found_and_nothing_to_find_score_zero_without_dividing() -> None:
    one = [TagSpan(0, 1, "LOC")]
    assert score_entities([[]], [[]]).f1 == 0
    assert score_entities([one], [[]]).precision == 0
    assert score_entities([[]], [one]).recall == 0
    assert score_entities([one], [one]).f1 == 1


def test_an_entity_counts_only_whole_and_in_its_own_row() -> None:
    gold = [[TagSpan(0, 2, "LOC")], [TagSpan(3, 4, "ORG")]]
    predicted = [[TagSpan(0, 1, "LOC"), TagSpan(3, 4, "ORG")], [TagSpan(3, 4, "LOC")]]
    scores = score_entities(gold, predicted)
    assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)


IOB1_ROWS = [
    # in IOB1 an entity begins with I; B only parts two of the same label that touch
    ("I-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
    ("I-PER B-PER I-PER", [(0, 1, "PER"), (1, 3, "PER")]),
    ("I-PER I-LOC I-LOC B-LOC", [(0, 1, "PER"), (1, 3, "LOC"), (3, 4, "LOC")]),
    ("O O", []),
]
BIOES_ROWS = [
    ("S-PER S-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ("B-PER I-PER E-PER O S-LOC", [(0, 3, "PER"), (4, 5, "LOC")]),
    ("B-PER E-PER B-PER E-PER", [(0, 2, "PER"), (2, 4, "PER")]),
    ("S-LOC B-PER E-PER S-LOC", [(0, 1, "LOC"), (1, 3, "PER"), (3, 4, "LOC")]),
]
BILOU_ROWS = [
    ("U-PER U-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ("B-PER I-PER L-PER O U-LOC", [(0, 3, "PER"), (4, 5, "LOC")]),
    ("B-PER L-PER B-PER L-PER U-PER", [(0, 2, "PER"), (2, 4, "PER"), (4, 5, "PER")]),
]


@pytest.mark.parametrize(
    ("scheme", "rows"), [(IOB1, IOB1_ROWS), (IOBES, BIOES_ROWS), (BILOU, BILOU_ROWS)], ids=["IOB1", "BIOES", "BILOU"]
)
def test_schemes_are_read_without_being_told_apart(scheme: type, rows: list[tuple[str, list[tuple]]]) -> None:
    for text, expected in rows:
        tags = text.split()
        spans = [TagSpan(*span) for span in expected]
        assert read_tags(tags) == spans
        strict = Entities([tags], scheme).entities[0]
        assert [(entity.start, entity.end, entity.tag) for entity in strict] == expected


def test_written_tags_are_iob2() -> None:
    assert write_tags([TagSpan(1, 3, "PER"), TagSpan(3, 4, "PER")], 5) == ["O", "B-PER", "I-PER", "B-PER", "O"]
    assert write_tags([], 2) == ["O", "O"]


def test_a_label_may_hold_hyphens() -> None:
    assert split_tag("B-PER-1") == ("B", "PER-1")
    assert split_tag("O") == ("O", "")


@pytest.mark.parametrize("tag", ["", "B", "B-", "PER", "X-PER", "o", "b-PER", "-PER", "B_PER"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="expected O, or B-, I-, E-, S-"):
        read_tags(["O", tag])
