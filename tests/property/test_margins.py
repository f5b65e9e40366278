"""A margin is a promise: logits that move by less than it says give the same answers."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks import find_task
from pipeline.tasks.base import Learned
from tests.tiny import make_tokenizer
from tests.unit.tasks.parts import examples_of, outputs_of

with tempfile.TemporaryDirectory() as _directory:
    TOKENIZER = make_tokenizer(_directory)
LABELS = ("O", "B-a", "I-a", "B-b", "I-b")
TUNED = {f"threshold.{label}": 0.1 + 0.2 * number for number, label in enumerate(LABELS)}
DECIDING = {
    "text-classification": Learned(LABELS),
    "multi-label": Learned(LABELS, TUNED),
    "token-classification": Learned(LABELS),
    "question-answering": Learned((), {"may_decline": 1.0, "null_threshold": 0.3}),
}
TEXTS = ["the film was superb and it is seven", "", "lovely tables", "a b", "round and dull and bad and great and long"]


class Case:
    """A task, rows, and logits for them, with ties where there is a grain."""

    def __init__(self, name: str, random: np.random.Generator, windowed: bool = False, grain: float = 0.0) -> None:
        self.task, self.learned = find_task(name, ""), DECIDING[name]
        texts = [["where?"] * len(TEXTS), TEXTS] if name == "question-answering" else [TEXTS]
        policy = "window" if windowed else "truncate"
        self.examples = examples_of(TOKENIZER, *texts, max_length=16, long_text=policy, stride=2)
        tokens = self.examples.tokens
        is_over_rows = self.task.head_class == "AutoModelForSequenceClassification"
        self.rows = np.arange(len(TEXTS)) if is_over_rows else np.repeat(tokens.window_rows, tokens.lengths)
        logits = random.normal(scale=2, size=(len(self.rows), len(self.learned.labels) or 2))
        self.logits = (np.round(logits / grain) * grain if grain else logits).astype(np.float32)
        margins = self.task.margins(outputs_of(self.logits), self.examples, self.learned)
        assert margins is not None
        self.margins = margins

    def changed(self, random: np.random.Generator, reach: float) -> list[bool]:
        """Whether each row's answer is another one where its logits move by up to so many margins."""
        most = np.minimum(self.margins, 9.0)[self.rows][:, None] * reach
        moved = self.logits + (random.uniform(-1, 1, size=self.logits.shape) * most).astype(np.float32)
        before, after = (self._chosen(logits) for logits in (self.logits, moved))
        return [one != other for one, other in zip(before, after, strict=True)]

    def _chosen(self, logits: np.ndarray) -> list[Any]:
        """The answers without the numbers that come with them."""
        fields, arrays = self.task.output_fields(), self.task.decode(outputs_of(logits), self.examples, self.learned)
        kept = {field.name: array for field, array in zip(fields, arrays, strict=True) if "score" not in field.name}
        rows = pa.table(kept).to_pylist()
        for row in rows:
            for entity in row.get("entities", ()):
                del entity["score"]
        return rows


@pytest.mark.parametrize("name", DECIDING)
@given(seed=st.integers(0, 2**32 - 1), grain=st.sampled_from([0.0, 0.5]), windowed=st.booleans())
def test_logits_that_move_by_less_than_the_margin_decide_the_same(
    name: str, seed: int, grain: float, windowed: bool
) -> None:
    random = np.random.default_rng(seed)
    case = Case(name, random, windowed, grain)
    assert case.margins.shape == (len(TEXTS),)
    assert (case.margins >= 0).all()
    logits_in_a_sum = 2 if name == "question-answering" else 1
    changed = case.changed(random, reach=0.49 / logits_in_a_sum)
    assert not any(moves for moves, margin in zip(changed, case.margins, strict=True) if margin > 0)


@pytest.mark.parametrize("name", DECIDING)
def test_a_margin_is_no_narrower_than_it_needs_to_be(name: str) -> None:
    """Moved by a few margins, many rows get another answer: one that is always tiny would not tell near from far."""
    random = np.random.default_rng(3)
    changed = [moves for _ in range(50) for moves in Case(name, random).changed(random, reach=2)]
    assert 0.1 < np.mean(changed) < 1
