"""Best spans, by hand and against a loop over windows that does the same one by one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from pipeline.encoder.tokenize import TokenRows
from pipeline.tasks import spans
from pipeline.tasks.spans import SpanLimits, best_spans

LIMITS = SpanLimits()
Window = tuple[np.ndarray, np.ndarray]


class Best(NamedTuple):
    start: int
    end: int
    logit: float
    null_logit: float


def rows_of(*rows: list[Window]) -> tuple[np.ndarray, TokenRows]:
    """Logits and tokens of rows, each a list of windows."""
    windows = [window for row in rows for window in row]
    lengths = [len(logits) for logits, _ in windows]
    tokens = TokenRows(
        np.zeros(sum(lengths), np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.zeros(len(rows), np.bool_),
        np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        spans=np.concatenate([found for _, found in windows]),
    )
    return np.concatenate([logits for logits, _ in windows]), tokens


def best_span(windows: list[Window], limits: SpanLimits) -> Best:
    """The best span of one row."""
    found = best_spans(*rows_of(windows), limits)
    return Best(int(found.starts[0]), int(found.ends[0]), float(found.logits[0]), float(found.null_logits[0]))


def simple_best_span(windows: list[Window], limits: SpanLimits) -> Best:
    """The rule, window by window."""
    best = Best(0, 0, float("-inf"), min(float(logits[0].sum()) for logits, _ in windows))
    for logits, ranges in windows:
        inside = np.flatnonzero(ranges[:, 0] >= 0)
        if not len(inside):
            continue
        starts = inside[np.argsort(-logits[inside, 0], kind="stable")[: limits.num_best]]
        ends = inside[np.argsort(-logits[inside, 1], kind="stable")[: limits.num_best]]
        length = ends[None, :] - starts[:, None] + 1
        scores = logits[starts, 0][:, None] + logits[ends, 1][None, :]
        scores = np.where((length >= 1) & (length <= limits.max_answer_tokens), scores, -np.inf)
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        if scores[row, column] > best.logit:
            found = int(ranges[starts[row], 0]), int(ranges[ends[column], 1]), float(scores[row, column])
            best = Best(*found, best.null_logit)
    return best


def window(starts: list[float], ends: list[float], first_character: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A window: the first token is not of the context, each other token is two characters and a space."""
    spans = [(-1, -1)] + [(first_character + 3 * i, first_character + 3 * i + 2) for i in range(len(starts) - 1)]
    return np.array([starts, ends], np.float32).T, np.array(spans, np.int32)


def test_the_best_sum_of_start_and_end_wins() -> None:
    best = best_span([window([1, 0, 5, 0], [2, 0, 0, 4])], LIMITS)
    assert best == Best(start=3, end=8, logit=9, null_logit=3)


def test_an_end_before_its_start_is_refused() -> None:
    best = best_span([window([0, 0, 0, 9], [0, 9, 0, 1])], LIMITS)
    assert (best.start, best.end, best.logit) == (6, 8, 10)
    best = best_span([window([0, 0, 8, 9], [0, 9, 4, 1])], LIMITS)
    assert (best.start, best.end, best.logit) == (3, 5, 12)


def test_an_answer_that_is_too_long_is_refused() -> None:
    tokens = window([0, 9, 0, 0, 3], [0, 0, 2, 0, 9])
    assert (best_span([tokens], SpanLimits(max_answer_tokens=4)).start, best_span([tokens], LIMITS).end) == (0, 11)
    short = best_span([tokens], SpanLimits(max_answer_tokens=3))
    assert (short.start, short.end, short.logit) == (9, 11, 12)


def test_only_the_best_starts_and_ends_are_tried() -> None:
    tokens = window([0, 1, 9, 8], [0, 9, 1, 1])
    assert best_span([tokens], SpanLimits(num_best=1)).logit == float("-inf")
    assert best_span([tokens], SpanLimits(num_best=3)).logit == 10


def test_tokens_outside_the_context_are_never_chosen() -> None:
    best = best_span([window([99, 1, 0], [99, 0, 1])], LIMITS)
    assert (best.start, best.end, best.logit, best.null_logit) == (0, 5, 2, 198)


def test_of_two_windows_the_better_span_and_the_lower_null_count() -> None:
    first, second = window([4, 1, 0], [4, 2, 0]), window([1, 0, 5], [1, 0, 2], first_character=60)
    best = best_span([first, second], LIMITS)
    assert best == Best(start=63, end=65, logit=7, null_logit=2)
    assert best_span([second, first], LIMITS) == best


@pytest.mark.parametrize(("ahead", "start"), [(0.0, 3), (2e-6, 3), (1e-2, 63)])
def test_of_windows_that_rounding_alone_sets_apart_the_first_counts(ahead: float, start: int) -> None:
    first, second = window([4, 1, 5], [4, 2, 2]), window([4, 1, 5 + ahead], [4, 2, 2], first_character=60)
    none = window([0, 0, 1], [0, 0, 0], first_character=30)
    assert best_span([none, first, second], LIMITS).start == start


def test_a_span_never_reaches_over_two_windows() -> None:
    first, second = window([0, 9, 0], [0, 0, 1]), window([0, 1, 0], [0, 0, 9], first_character=6)
    best = best_span([first, second], LIMITS)
    assert (best.start, best.end, best.logit) == (0, 5, 10)


def test_without_a_context_token_there_is_no_span() -> None:
    best = best_span([(np.ones((2, 2), np.float32), np.full((2, 2), -1, np.int32))], LIMITS)
    assert (best.start, best.end, best.logit, best.null_logit) == (0, 0, float("-inf"), 2)


def test_the_margin_says_how_much_better_no_answer_is() -> None:
    found = best_spans(*rows_of([window([1, 0, 5, 0], [2, 0, 0, 4])], [window([1], [2])]), LIMITS)
    assert found.null_margins.tolist() == [-6, float("inf")]


def test_the_runner_up_is_the_best_other_span_of_any_window() -> None:
    plain, later = window([1, 0, 5, 0], [2, 0, 3, 4]), window([1, 6, 0], [2, 2, 0], first_character=60)
    again = window([1, 8, 0], [2, 0, 0.5], first_character=3)  # 3-8 as in the first, and next 3-5
    lone = window([1, 3], [2, 2])
    found = best_spans(*rows_of([plain], [plain, later], [plain, again], [lone], [window([1], [2])]), LIMITS)
    assert found.logits.tolist() == [9, 9, 9, 5, float("-inf")]
    assert found.runners_up.tolist() == [8, 8, 8, float("-inf"), float("-inf")]


def test_no_rows_have_no_spans() -> None:
    nothing = TokenRows(
        np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.bool_), spans=np.zeros((0, 2), np.int32)
    )
    assert len(best_spans(np.zeros((0, 2), np.float32), nothing, LIMITS).starts) == 0


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("round_cells", [1, 1_000, spans._ROUND_CELLS])
def test_many_rows_at_once_are_what_they_are_one_by_one(
    seed: int, round_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 1 to 69 tokens, some of them not of the context; logits with ties, zeros of either sign and NaN."""
    monkeypatch.setattr(spans, "_ROUND_CELLS", round_cells)
    random = np.random.default_rng(seed)
    rows = [[random_window(random) for _ in range(random.integers(1, 4))] for _ in range(random.integers(1, 30))]
    limits = SpanLimits(int(random.integers(1, 25)), int(random.integers(1, 12)))
    found, expected = best_spans(*rows_of(*rows), limits), [simple_best_span(row, limits) for row in rows]
    assert found.starts.tolist() == [best.start for best in expected]
    assert found.ends.tolist() == [best.end for best in expected]
    assert found.logits.tolist() == [best.logit for best in expected]
    assert found.null_logits.tolist() == [best.null_logit for best in expected]


def random_window(random: np.random.Generator) -> Window:
    size = int(random.integers(1, 70))
    logits = random.normal(scale=4, size=(size, 2)).astype(np.float32)
    if random.random() < 0.5:
        logits = np.round(logits / 4).astype(np.float32)
        logits[random.random(logits.shape) < 0.1] = -0.0
    logits[1:][random.random((size - 1, 2)) < random.choice([0.0, 0.05])] = np.nan
    starts = np.cumsum(random.integers(0, 5, size))
    ranges = np.stack([starts, starts + random.integers(0, 5, size)], axis=1).astype(np.int32)
    ranges[random.random(size) < random.choice([0.1, 0.9])] = -1
    ranges[0] = -1
    return logits, ranges
