"""Parts for the training tests: a learnable data set in memory, contexts and jobs, hooks that note what they get."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions
from pipeline.finetune.classes import make_emphasis
from pipeline.finetune.loop import LoopHooks, LoopJob, ValidationRows
from pipeline.finetune.spec import CheckpointConfig, TrainingConfig
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.step import StepContext, TrainingHead
from pipeline.finetune.token_cache import TokenData
from pipeline.finetune.worker import plan_run
from pipeline.tasks.base import Examples, Learned
from pipeline.tasks.text_classification import TextClassification
from tests.tiny import LABELS, make_network, make_rows, write_corpus

TASK = TextClassification()
LEARNED = Learned(LABELS)
RUNTIME = Runtime(torch.device("cpu"), autocast_dtype=None, budget=BatchBudget(tokens=512, rows=64))


def raw_spec(directory: Path, encoder: Path, rows_per_file: int, training: dict[str, Any]) -> dict[str, Any]:
    """A spec of text classification as YAML gives it, and its rows as files beside its output."""
    write_corpus(directory / "train", rows_per_file=rows_per_file)
    write_corpus(directory / "validation", num_files=1, seed=1)
    return spec_over(directory, encoder, training)


def spec_over(directory: Path, encoder: Path, training: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    """A spec of text classification as YAML gives it, over `train` and `validation` beside its output."""
    return {
        "task": "text-classification",
        "model": str(encoder),
        "data": {split: str(directory / f"{split}{suffix}") for split in ("train", "validation")},
        "output": str(directory / "bundle"),
        "training": training,
        "compute": {"device": "cpu", "precision": "fp32"},
    }


def token_data(tokenizer: Any, num_rows: int, seed: int = 0) -> TokenData:
    """Rows of `make_rows`, tokenised."""
    table = make_rows(num_rows, seed)
    rows = TextTokenizer(tokenizer, TokenOptions(32)).encode(table["text"])
    examples = Examples((table["text"],), rows)
    return TokenData(rows, TASK.window_targets(table["label"], examples, LEARNED))


def validation_rows(tokenizer: Any, num_rows: int, seed: int = 0) -> ValidationRows:
    """Such rows, to be judged."""
    table = make_rows(num_rows, seed)
    rows = TextTokenizer(tokenizer, TokenOptions(32)).encode(table["text"])
    return ValidationRows(Examples((table["text"],), rows), (rows,), table["label"])


def join(network: Any = None) -> JoinedHeads:
    """A network as the one head of a run."""
    return JoinedHeads({"": network or make_network()}, EmbeddingOptions("mean", normalize=True))


def context_for(data: TokenData, network: Any = None, world_size: int = 1, **recipe: Any) -> StepContext:
    """A run's context in fp32 on CPU; `recipe` goes to TrainingConfig."""
    config = TrainingConfig(**{"max_grad_norm": 1e9, **recipe})
    emphasis = make_emphasis(data, TASK, LABELS, config)
    return StepContext(
        join(network), (TrainingHead("", TASK, data, emphasis=emphasis),), RUNTIME, config, Padding(0), world_size
    )


def job_for(
    context: StepContext, *, epochs: int = 1, validation: ValidationRows | None = None, every_s: float = 1e9
) -> LoopJob:
    """The only rank's job."""
    context = replace(context, config=context.config.model_copy(update={"epochs": epochs}))
    plan = plan_run(context, {"": LABELS})
    rows = {} if validation is None else {"": validation}
    return LoopJob(context, plan, rows, {"": LEARNED}, CheckpointConfig(every_s=every_s), "fingerprint", rank=0)


@dataclass
class Notes:
    """Hooks as plain functions: statuses are listed, checkpoints written below a directory."""

    directory: Path
    statuses: list[TrainingStatus] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)

    def hooks(self, restore: Path | None = None) -> LoopHooks:
        return LoopHooks(restore, self._save, self.statuses.append)

    def _save(self, write: Callable[[Path], None]) -> None:
        target = self.directory / f"checkpoint-{len(self.checkpoints)}"
        shutil.rmtree(target, ignore_errors=True)
        write(target)
        self.checkpoints.append(target)


def weights_of(network: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def gradients_of(network: Any) -> dict[str, np.ndarray]:
    return {name: value.grad.numpy().copy() for name, value in network.named_parameters() if value.grad is not None}
