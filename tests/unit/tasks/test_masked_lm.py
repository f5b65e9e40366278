from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.encoder.outputs import ModelOutputs
from pipeline.tasks import TASKS
from pipeline.tasks.base import Examples, Learned
from tests.tiny import make_rows

TASK = TASKS["masked-lm"]


def judged(logits: np.ndarray, truth: list[int], examples: Examples) -> pa.Table:
    count = len(logits)
    outputs = ModelOutputs(logits.astype(np.float32), np.zeros((count, 0), np.float32), np.ones(count, bool), 0)
    return TASK.judge([outputs], examples, pa.chunked_array([pa.array(truth)]), Learned())


@pytest.fixture
def examples(tokenizer: object) -> Examples:
    from pipeline.encoder.tokenize import TextTokenizer, TokenOptions

    texts = make_rows(4)["text"]
    return Examples((texts,), TextTokenizer(tokenizer, TokenOptions(32, with_spans=True)).encode(texts))


def test_figures_are_those_of_the_hidden_tokens(examples: Examples) -> None:
    logits = np.random.default_rng(0).normal(size=(40, 12)) * 50
    truth = np.random.default_rng(1).integers(0, 12, 40)
    truth[:10] = logits[:10].argmax(axis=1)
    whole = judged(logits, truth.tolist(), examples)
    parts = pa.concat_tables(
        [judged(logits[20:], truth[20:].tolist(), examples), judged(logits[:20], truth[:20].tolist(), examples)]
    )
    figures = TASK.evaluate(whole, Learned()).metrics
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth))
    assert figures["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    assert figures["accuracy"] == np.mean(logits.argmax(axis=1) == truth)
    assert TASK.evaluate(parts, Learned()).metrics == pytest.approx(figures)
    assert set(figures) == set(TASK.metrics)


def test_no_hidden_token_gives_no_figures(examples: Examples) -> None:
    assert TASK.evaluate(judged(np.zeros((0, 12)), [], examples), Learned()).metrics == {}


def test_what_stands_for_a_target_is_each_token_s_word(examples: Examples) -> None:
    found = TASK.window_targets(pa.chunked_array([pa.nulls(4)]), examples, Learned())
    tokens = examples.tokens
    for window, text in enumerate(examples.texts[0].to_pylist()):
        words = found.values[tokens.offsets[window] : tokens.offsets[window + 1]].tolist()
        assert words[0] == words[-1] == -100
        assert sorted(set(words[1:-1])) == list(range(len(text.split())))


def test_a_target_column_is_refused() -> None:
    with pytest.raises(TypeError, match="takes no target"):
        TASK.learn(pa.chunked_array([pa.array([1.0])]))
