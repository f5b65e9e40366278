"""What a worker did at each moment, from spans of shards that overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.spans import PRIORITY, Span, flatten_spans, join_spans, split_spans, sum_spans

spans = st.builds(
    lambda stage, start, length: Span(stage, start / 8, (start + length) / 8),
    st.sampled_from([*PRIORITY, "wait"]),
    st.integers(0, 60),
    st.integers(0, 20),
)


def test_the_model_comes_before_what_goes_on_beside_it() -> None:
    found = flatten_spans(
        [Span("other", 0, 10), Span("model", 2, 6), Span("tokenize", 4, 8), Span("read", 5, 9), Span("wait", 9, 10)]
    )
    assert found == [
        Span("other", 0, 2),
        Span("model", 2, 6),
        Span("tokenize", 6, 8),
        Span("read", 8, 9),
        Span("other", 9, 10),
    ]


def test_time_without_a_shard_is_left_out() -> None:
    found = flatten_spans([Span("read", 0, 1), Span("model", 1, 3), Span("read", 5, 6)])
    assert found == [Span("read", 0, 1), Span("model", 1, 3), Span("read", 5, 6)]
    assert sum_spans(found) == {"model": 2, "tokenize": 0, "read": 2, "write": 0, "other": 0}
    assert flatten_spans([]) == []


@given(st.lists(spans, max_size=12))
def test_each_moment_counts_once_as_the_first_of_what_goes_on(chosen: list[Span]) -> None:
    flat = flatten_spans(chosen)
    assert all(one.stop_s <= other.start_s for one, other in pairwise(flat))
    for moment in (index / 8 + 1 / 16 for index in range(90)):
        going_on = [span.stage for span in chosen if span.start_s < moment < span.stop_s and span.stage in PRIORITY]
        expected = min(going_on, key=PRIORITY.index, default=None)
        found = [span.stage for span in flat if span.start_s < moment < span.stop_s]
        assert found == ([] if expected is None else [expected])


def test_spans_are_kept_as_text_in_milliseconds() -> None:
    text = join_spans([Span("read", 0.0, 0.3101), Span("model", 0.3101, 2.5), Span("write", 2.5, 2.5001)])
    assert text == "read 0 310;model 310 2500"
    assert split_spans(text, 100.0) == [Span("read", 100.0, 100.31), Span("model", 100.31, 102.5)]
    assert split_spans("") == []
    with pytest.raises(ValueError, match="not enough values to unpack"):
        split_spans("read 0")
