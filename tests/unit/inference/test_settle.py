"""What half precision cannot decide is decided in fp32, and nothing else runs twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.config import ScoringCompute
from pipeline.corpus.reader import input_column
from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.outputs import ModelOutputs
from pipeline.encoder.tokenize import TokenRows
from pipeline.inference import predictor
from pipeline.inference.predictor import load_predictor
from pipeline.inference.settle import NUM_PROBED, Margins, settle
from pipeline.inference.source import ModelSource, TextSource
from pipeline.inference.stages import StageClock
from pipeline.inference.worker import bundle_columns
from pipeline.storage import Storage
from pipeline.tasks.base import Examples
from tests.tiny import make_rows
from tests.unit.inference.bundles import write_family

NUM_ROWS = 600
NOISE = 0.02


def said(logits: np.ndarray, num_rows: int) -> ModelOutputs:
    return ModelOutputs(logits, np.zeros((num_rows, 0), np.float32), np.ones(num_rows, np.bool_), 0)


class Rows:
    """Rows of some windows of some tokens, each token numbered, and what fp32 and half precision say about them."""

    def __init__(self, over_tokens: bool) -> None:
        random = np.random.default_rng(0)
        row_of = np.repeat(np.arange(NUM_ROWS), random.integers(1, 3, NUM_ROWS))
        lengths = random.integers(1, 5, len(row_of))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        numbers = np.arange(offsets[-1], dtype=np.int32)
        tokens = TokenRows(numbers, offsets, np.zeros(NUM_ROWS, np.bool_), row_of)
        self.examples = Examples((pa.chunked_array([pa.array([""] * NUM_ROWS, pa.large_string())]),), tokens)
        self.row_of_token = np.repeat(row_of, lengths)
        self.exact = random.normal(size=(len(numbers) if over_tokens else NUM_ROWS, 2)).astype(np.float32)
        self.half = (self.exact + random.normal(scale=NOISE, size=self.exact.shape)).astype(np.float32)
        self.rows = self.row_of_token if over_tokens else np.arange(NUM_ROWS)
        self.runs: list[int] = []

    def margins(self, outputs: ModelOutputs, examples: Examples) -> np.ndarray:
        least = np.full(examples.tokens.num_rows, np.inf, np.float32)
        tokens = examples.tokens
        rows = np.repeat(tokens.window_rows, tokens.lengths)
        rows = rows if len(rows) == len(outputs.logits) else np.arange(len(least))
        np.minimum.at(least, rows, np.abs(outputs.logits[:, 0] - outputs.logits[:, 1]))
        return least

    def again(self, tokens: TokenRows) -> tuple[ModelOutputs, ...]:
        """fp32's answer, by the tokens' own numbers."""
        self.runs.append(tokens.num_rows)
        is_over_tokens = len(self.exact) == len(self.row_of_token)
        places = tokens.ids if is_over_tokens else np.unique(self.row_of_token[tokens.ids])
        return (said(self.exact[places], tokens.num_rows),) * self.num_heads

    def settle(self, *heads: Margins) -> tuple[int, tuple[ModelOutputs, ...]]:
        """How many rows ran again, and each head's outputs then."""
        self.num_heads = len(heads)
        outputs = tuple(said(self.half.copy(), NUM_ROWS) for _ in heads)
        return settle(outputs, self.examples, heads, self.again), outputs


@pytest.mark.parametrize("over_tokens", [False, True])
def test_close_calls_are_those_of_fp32_and_the_others_stay(over_tokens: bool) -> None:
    rows = Rows(over_tokens)
    num_settled, (found, other) = rows.settle(rows.margins, lambda _outputs, _examples: None)
    wrong = rows.half.argmax(axis=1) != rows.exact.argmax(axis=1)
    is_settled = (found.logits == rows.exact).all(axis=1)
    assert wrong.sum() >= 3
    assert (found.logits.argmax(axis=1) == rows.exact.argmax(axis=1)).all()
    assert (found.logits[~is_settled] == rows.half[~is_settled]).all()
    settled_rows = np.unique(rows.rows[is_settled])
    assert not np.isin(rows.rows[~is_settled], settled_rows).any(), "a row is settled as a whole"
    num_probed = NUM_ROWS // 32
    assert [num_probed, num_settled - num_probed] == rows.runs
    assert num_probed < num_settled == len(settled_rows) < NUM_ROWS / 3
    assert (other.logits == found.logits).all(), "a head without choices goes along"


def test_answers_that_are_numbers_are_left_as_they_are() -> None:
    rows = Rows(over_tokens=False)
    num_settled, (found,) = rows.settle(lambda _outputs, _examples: None)
    assert (num_settled, rows.runs) == (0, [])
    assert (found.logits == rows.half).all()


def test_a_row_that_is_not_finite_is_not_close() -> None:
    rows = Rows(over_tokens=False)
    rows.half[1], rows.half[2] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        _, (found,) = rows.settle(rows.margins)
    assert np.isnan(found.logits[1]).all()
    assert (found.logits[3:].argmax(axis=1) == rows.exact[3:].argmax(axis=1)).all()


def labels(uris: dict[str, str], num_rows: int, precision: str) -> tuple[dict[str, Any], int]:
    """What bundles decide about some texts, and how many rows ran again."""
    source = dict.fromkeys(uris, TextSource(("text",)))
    compute = ScoringCompute.model_validate({"device": "cpu", "precision": precision})
    loaded, clock = load_predictor(ModelSource(uris, source, compute, 1, Storage())), StageClock()
    texts = pa.array(make_rows(num_rows)["text"].to_pylist(), pa.large_string())
    predictions = loaded.predict(pa.table({input_column("text"): texts}), source, clock)
    columns = {name: bundle_columns(loaded.members[name], found) for name, found in predictions.items()}
    tags = [[(one["start"], one["label"]) for one in row] for row in columns["names"]["entities"].to_pylist()]
    found = {name: columns[name]["label"].to_pylist() for name in ("tone", "stranger")}
    return {**found, "names": tags}, clock.num_settled_rows


@pytest.mark.parametrize("num_rows", [NUM_PROBED, 400])
def test_auto_decides_as_fp32_does_where_bf16_alone_does_not(
    num_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris, are_few = write_family(tmp_path), num_rows <= NUM_PROBED
    right, _ = labels(uris, num_rows, "fp32")
    runtime = Runtime(torch.device("cpu"), torch.bfloat16, BatchBudget(4_096, 1_024))
    monkeypatch.setattr(predictor, "choose_runtime", lambda _compute: runtime)
    rounded, num_none = labels(uris, num_rows, "bf16")
    settled, num_settled = labels(uris, num_rows, "auto")
    assert settled == right
    assert num_none == 0
    if are_few:
        assert num_settled == 0, "they run in fp32 at once"
    else:
        assert rounded != right
        assert 0 < num_settled < 2 * num_rows  # of two encoders
