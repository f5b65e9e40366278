"""When a shard was in which stage, as text."""

from __future__ import annotations

import pytest

from pipeline.output.spans import Span, join_spans, split_spans


def test_spans_are_kept_as_text_in_milliseconds() -> None:
    text = join_spans([Span("read", 0.0, 0.3101), Span("model", 0.3101, 2.5), Span("write", 2.5, 2.5001)])
    assert text == "read 0 310;model 310 2500"
    assert split_spans(text, 100.0) == [Span("read", 100.0, 100.31), Span("model", 100.31, 102.5)]
    assert split_spans("") == []
    with pytest.raises(ValueError, match="not enough values to unpack"):
        split_spans("read 0")
