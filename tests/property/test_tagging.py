"""write_tags and read_tags are each other's inverse; read_tags never overlaps."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.tagging import TagSpan, find_spans, read_tags, write_tags

KINDS = st.sampled_from(["LOC", "PER", "a-b"])
TAGS = st.lists(st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from("BIESLUM"), KINDS)), max_size=15)


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[TagSpan], int]:
    """Entities side by side or apart, and the number of words."""
    spans, position = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=6)):
        start = position + gap
        spans.append(TagSpan(start, start + length, draw(KINDS)))
        position = start + length
    return spans, position + draw(st.integers(0, 3))


@given(entities())
def test_entities_come_back_from_their_tags(row: tuple[list[TagSpan], int]) -> None:
    spans, num_words = row
    tags = write_tags(spans, num_words)
    assert len(tags) == num_words
    assert read_tags(tags) == spans


@given(TAGS)
def test_any_tags_make_entities_in_order_that_cover_exactly_the_tagged_words(tags: list[str]) -> None:
    spans = read_tags(tags)
    covered = [word for span in spans for word in range(span.start, span.stop)]
    assert covered == [word for word, tag in enumerate(tags) if tag != "O"]
    assert all({tags[word].split("-", 1)[1] for word in range(s.start, s.stop)} == {s.label} for s in spans)


@given(TAGS)
def test_writing_what_was_read_changes_nothing_more(tags: list[str]) -> None:
    written = write_tags(read_tags(tags), len(tags))
    assert write_tags(read_tags(written), len(tags)) == written
    assert read_tags(written) == read_tags(tags)


@given(st.lists(TAGS, max_size=6))
def test_the_entities_of_many_rows_are_those_of_each(rows: list[list[str]]) -> None:
    names = sorted({tag for row in rows for tag in row if tag != "O"})
    numbers = [names.index(tag) if tag in names else -1 for row in rows for tag in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    found = find_spans(np.array(numbers, np.int64), names, offsets)
    expected = [
        (int(first) + span.start, int(first) + span.stop, span.label)
        for first, row in zip(offsets, rows, strict=False)
        for span in read_tags(row)
    ]
    assert list(zip(found.starts.tolist(), found.stops.tolist(), found.labels, strict=True)) == expected
