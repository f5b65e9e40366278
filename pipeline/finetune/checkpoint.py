"""Training state on disk: safetensors and JSON only (nothing is ever unpickled), `COMPLETE` written last."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import TrainingError
from pipeline.finetune.parallel import restore_moments

_COMPLETE = "COMPLETE"
_STATE = "state.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_BEST = "best.safetensors"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Standing:
    """What is known of the best evaluation; kept in checkpoints.

    Attributes:
        best_step: Steps done when it was made; 0: there was none yet.
        best_figure: Its figure, turned so that higher is better.
        num_worse: Evaluations since.
    """

    best_step: int = 0
    best_figure: float = -math.inf
    num_worse: int = 0

    def after(self, step: int, figure: float) -> Standing:
        """The standing once another evaluation is known; one that is only equal is not better."""
        if figure > self.best_figure or not self.best_step:
            return Standing(step, figure if math.isfinite(figure) else -math.inf, 0)
        return Standing(self.best_step, self.best_figure, self.num_worse + 1)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the next step, the run it belongs to, its best evaluation, and in fp16 its scaler's state."""

    next_step: int
    fingerprint: str
    standing: Standing = Standing()
    scaler: Mapping[str, float] = field(default_factory=dict)


def save_checkpoint(
    directory: Path,
    network: torch.nn.Module,
    moments: Weights,
    progress: Progress,
    best: Weights | None = None,
) -> None:
    """Write weights, optimizer moments, progress and the best weights, then `COMPLETE` with every file's size."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(copy_weights(network), directory / _WEIGHTS)
    save_file(moments, directory / _OPTIMIZER)
    if best:
        save_file(best, directory / _BEST)
    (directory / _STATE).write_text(json.dumps(asdict(progress)))
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.name != _COMPLETE}
    (directory / _COMPLETE).write_text(json.dumps(sizes))


def load_checkpoint(
    directory: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> Progress:
    """Restore a run's state in place.

    Raises:
        TrainingError: the checkpoint is incomplete, or of a run with another spec or other data.
    """
    progress = _read_progress(directory)
    if progress.fingerprint != fingerprint:
        raise TrainingError(
            f"{directory}: a checkpoint of another run ({progress.fingerprint[:12]}, this is {fingerprint[:12]})",
            "use another `work`, or remove the old run",
        )
    weights = load_file(directory / _WEIGHTS)
    if weights.keys() != _own_weights(network).keys():
        raise TrainingError(f"{directory}: a checkpoint of other networks", "use another `work`, or remove the old run")
    network.load_state_dict(weights, strict=False)
    restore_moments(optimizer, load_file(directory / _OPTIMIZER))
    return progress


def load_best(directory: Path) -> Weights:
    """The best weights so far, on the CPU; none if the run keeps none."""
    path = directory / _BEST
    return load_file(path) if path.exists() else {}


def copy_weights(network: torch.nn.Module) -> Weights:
    """A copy of every weight and buffer on the CPU."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _own_weights(network).items()}


def _own_weights(network: torch.nn.Module) -> Weights:
    """Every weight and buffer once: an encoder that several heads share stands under each of their names."""
    first_names: dict[int, str] = {}
    weights = network.state_dict(keep_vars=True)
    for name, tensor in weights.items():
        first_names.setdefault(id(tensor), name)
    return {name: weights[name] for name in first_names.values()}


def _read_progress(directory: Path) -> Progress:
    try:
        sizes = json.loads((directory / _COMPLETE).read_text())
        actual = {name: (directory / name).stat().st_size for name in sizes}
    except (OSError, ValueError):
        sizes, actual = {_COMPLETE: 0}, {}
    if sizes != actual:
        raise TrainingError(f"{directory}: an incomplete checkpoint", "remove it; the run goes on from the one before")
    state = json.loads((directory / _STATE).read_text())
    return Progress(**{**state, "standing": Standing(**state["standing"])})
