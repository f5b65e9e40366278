from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.tasks import TASKS
from pipeline.tasks.base import IGNORED
from pipeline.tasks.losses import Emphasis, class_loss_sum

LOGITS = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))
CLASSES = np.array([0, 2, 1, 2, IGNORED, 0], np.float32)


def by_hand(logits: torch.Tensor, shares: np.ndarray, weights: tuple[float, ...]) -> float:
    """The sum over rows and classes of weight x share x -log probability."""
    surprise = -torch.log_softmax(logits, dim=1).numpy()
    return float((surprise * shares * np.array(weights)).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothing_and_weights_of_hard_labels(smoothing: float) -> None:
    weights = (0.5, 1.0, 4.0)
    labelled = CLASSES >= 0
    shares = (1 - smoothing) * np.eye(3)[CLASSES[labelled].astype(int)] + smoothing / 3
    emphasis = Emphasis(smoothing, torch.tensor(weights))
    found = class_loss_sum(LOGITS, torch.from_numpy(CLASSES)[:, None], emphasis)
    assert float(found) == pytest.approx(by_hand(LOGITS[labelled], shares, weights), rel=1e-5)


def test_weights_of_soft_labels() -> None:
    shares = np.random.default_rng(1).dirichlet(np.ones(3), 6)
    found = class_loss_sum(LOGITS, torch.from_numpy(shares), Emphasis(0.0, torch.tensor([2.0, 0.0, 1.0])))
    assert float(found) == pytest.approx(by_hand(LOGITS, shares, (2, 0, 1)), rel=1e-5)


def test_tokens_are_rows_one_after_the_other() -> None:
    emphasis = Emphasis(0.1, torch.tensor([2.0, 0.5, 1.0]))
    rows = class_loss_sum(LOGITS, torch.from_numpy(CLASSES)[:, None], emphasis)
    tokens = class_loss_sum(LOGITS.view(2, 3, 3), torch.from_numpy(CLASSES).view(2, 3), emphasis)
    torch.testing.assert_close(tokens, rows)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_main_metric_is_one_of_the_metrics(task: Any) -> None:
    assert task.main_metric in task.metrics
    assert len(set(task.metrics)) == len(task.metrics)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_temperature_compares_the_softened_teacher_with_the_softened_student(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    found = class_loss_sum(student, teacher.softmax(dim=-1), Emphasis(temperature=temperature))
    soft = (teacher / temperature).softmax(dim=-1)
    expected = -(temperature**2) * (soft * (student / temperature).log_softmax(dim=-1)).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
