"""Which evaluation was the best so far, the weights it had, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.errors import Problem, SpecError, TrainingError
from pipeline.finetune.checkpoint import Standing, Weights, copy_weights
from pipeline.finetune.spec import TrainingConfig
from pipeline.tasks.base import LOWER_IS_BETTER, Task

OF_A_SEARCH = "ndcg@10"
"""What embeddings are compared by where validation rows have no scores."""
Figures = Mapping[str, Mapping[str, float]]
"""Head -> metric -> value."""


class BestKeeper:
    """Follows a run's evaluations and holds a copy of the weights that had the best; every rank has its own.

    Args:
        recipe: Says which figure, if any.
        tasks: Each head's task.
        network: What is trained.
    """

    def __init__(self, recipe: TrainingConfig, tasks: Mapping[str, Task], network: torch.nn.Module) -> None:
        self._recipe, self._tasks, self._network = recipe, tasks, network
        self.standing = Standing()
        self.weights: Weights = {}

    def resume(self, standing: Standing, weights: Weights) -> None:
        """Go on from a checkpoint."""
        self.standing, self.weights = standing, weights

    def note(self, step: int, figures: Figures) -> None:
        """Take an evaluation after so many steps into account."""
        if self._recipe.keep_best is None:
            return
        self.standing = self.standing.after(step, read_figure(self._recipe.keep_best, figures, self._tasks))
        if self.standing.best_step == step:
            self.weights = copy_weights(self._network)

    @property
    def is_over(self) -> bool:
        """Whether the recipe's patience has run out."""
        return self._recipe.patience is not None and self.standing.num_worse >= self._recipe.patience

    def put_back(self) -> bool:
        """Give the network the best weights, unless it has them; whether anything changed."""
        if not self.standing.num_worse:
            return False
        self._network.load_state_dict(self.weights, strict=False)
        return True


def read_figure(keep_best: str, figures: Figures, tasks: Mapping[str, Task]) -> float:
    """One number for an evaluation, higher for better; `auto` is the task's main metric, for one judged head.

    Raises:
        TrainingError: these validation rows do not give that figure (no question has an answer, pairs have no scores).
    """
    head, _, metric = keep_best.rpartition(".")
    if keep_best == "auto":
        ((head, metrics),) = figures.items()
        main = tasks[head].main_metric
        metric = main if main in metrics else OF_A_SEARCH
    found = figures.get(head, {})
    if metric not in found:
        given = ", ".join(f"{head}.{name}" if head else name for name in found) or "none"
        raise TrainingError(
            f"training.keep_best is {keep_best!r}, and the validation rows give no such figure; they give: {given}",
            "name one of these in training.keep_best, or mend the validation rows",
        )
    return -found[metric] if metric in LOWER_IS_BETTER else found[metric]


def figure_names(tasks: Mapping[str, Task]) -> list[str]:
    """Every figure of some heads, named as statuses name it: `METRIC`, or `HEAD.METRIC` of several heads."""
    return [f"{head}.{metric}" if head else metric for head, task in tasks.items() for metric in task.metrics]


def check_best(recipe: TrainingConfig, tasks: Mapping[str, Task], source: str) -> None:
    """Make sure that there is a figure by the name that `keep_best` gives.

    Args:
        recipe: The recipe.
        tasks: Tasks of the heads that have validation rows.
        source: The spec's name, for errors.

    Raises:
        SpecError: there is none.
    """
    if recipe.keep_best is None:
        return
    known = figure_names(tasks)
    known += ["auto"] if len(tasks) == 1 else []  # figures of several tasks cannot be compared with each other
    if recipe.keep_best not in known:
        problem = Problem("training.keep_best", f"holds {recipe.keep_best!r}", f"one of: {', '.join(known)}")
        raise SpecError(source, (problem,))
