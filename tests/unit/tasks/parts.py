"""Parts for the task tests: examples tokenised by the tiny tokenizer, model outputs made up by the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.encoder.outputs import ModelOutputs
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions, TokenRows
from pipeline.tasks.base import Examples


def outputs_of(logits: Any, embeddings: Any = None) -> ModelOutputs:
    """These very logits, all finite."""
    logits = np.asarray(logits, np.float32)
    embeddings = np.zeros((len(logits), 1)) if embeddings is None else embeddings
    return ModelOutputs(logits, np.asarray(embeddings, np.float32), np.ones(len(logits), np.bool_), 0)


def examples_of(
    tokenizer: Any, *texts: Sequence[str], are_words: bool = False, max_length: int = 64, **options: Any
) -> Examples:
    """Texts (one list per input) and their tokens, with character ranges unless told otherwise."""
    columns = tuple(pa.chunked_array([pa.array(text, pa.large_string())]) for text in texts)
    encoder = TextTokenizer(tokenizer, TokenOptions(max_length, **{"with_spans": True, **options}))
    return Examples(columns, encoder.encode(*columns), are_words)


def rows_without_text(num_rows: int, row_of: Sequence[int] | None = None) -> Examples:
    """Rows of one token each, for tasks that look at nothing but the outputs; or windows of those rows."""
    num_windows = len(row_of) if row_of is not None else num_rows
    tokens = TokenRows(
        np.zeros(num_windows, np.int32),
        np.arange(num_windows + 1, dtype=np.int64),
        np.zeros(num_rows, np.bool_),
        np.array(row_of) if row_of is not None else None,
    )
    return Examples((pa.chunked_array([pa.array([""] * num_rows, pa.large_string())]),), tokens)


def column(values: Any, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    """A target column in two chunks."""
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    return pa.chunked_array([array.slice(0, 1), array.slice(1)], array.type)
