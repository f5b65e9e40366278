"""One optimizer step over one rank's share of a global batch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.model import head_logits, model_inputs
from pipeline.encoder.tokenize import PaddedBatch, Padding, flat_positions, pad_rows
from pipeline.finetune.data import TokenData
from pipeline.finetune.spec import TrainingConfig
from pipeline.tasks.base import IGNORED, Task

_CPU_MICRO_BATCH_TOKENS = 1_024
_GPU_MICRO_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class StepContext:
    """What every step of a run shares.

    `network` may be wrapped in DistributedDataParallel, which averages gradients over `world_size` ranks.
    """

    network: Any
    task: Task
    data: TokenData
    runtime: Runtime
    config: TrainingConfig
    padding: Padding
    world_size: int


@dataclass(frozen=True)
class StepResult:
    """This rank's part of a step: summed loss, its terms, real and padded tokens; the gradient norm is global."""

    loss_sum: float
    weight: int
    num_tokens: int
    num_padded_tokens: int
    grad_norm: float


def run_step(
    context: StepContext, optimizer: torch.optim.Optimizer, share: npt.NDArray[np.int64], weight: int
) -> StepResult:
    """Forward, backward and update.

    The loss is summed over rows and divided by the global count of its terms, so neither micro-batches nor
    the number of ranks change the gradient.

    Args:
        context: The run.
        optimizer: Already set to this step's learning rate.
        share: Row numbers of this rank; may be empty (the rank still joins the gradient exchange).
        weight: Terms of the loss in the global batch, over all ranks.
    """
    network = context.network
    network.train()
    optimizer.zero_grad(set_to_none=True)
    micro_batches = _micro_batches(context, share)
    loss_sum, num_padded = 0.0, 0
    for position, rows in enumerate(micro_batches):
        is_last = position == len(micro_batches) - 1
        with contextlib.nullcontext() if is_last else _no_sync(network):
            loss, padded = _backward(context, rows, weight if len(share) else 0)
        loss_sum += loss
        num_padded += padded
    grad_norm = torch.nn.utils.clip_grad_norm_(network.parameters(), context.config.max_grad_norm)
    optimizer.step()
    num_tokens = int(context.data.rows.lengths[share].sum())
    own_weight = int(context.data.targets.weights[share].sum())
    return StepResult(loss_sum, own_weight, num_tokens, num_padded, float(grad_norm))


def make_optimizer(network: torch.nn.Module, base_prefix: str, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and normalisation, the head at its own learning rate.

    Each group carries `peak_lr`, which `set_learning_rate` scales.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_head = not name.startswith(f"{base_prefix}.")
            groups.setdefault((is_head, parameter.ndim > 1), []).append(parameter)
    head_lr = config.head_learning_rate or config.learning_rate
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": head_lr if is_head else config.learning_rate,
                "peak_lr": head_lr if is_head else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        fused=True,  # one pass over weights and moments: a step on CPU takes two thirds of the time
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def _micro_batches(context: StepContext, share: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    if not len(share):
        return [np.zeros(1, np.int64)]  # any row, weighted 0: DDP needs a backward pass on every rank
    budget = BatchBudget(_micro_batch_tokens(context), len(share))
    return [share[indices] for indices in plan_batches(context.data.rows.lengths[share], budget)]


def _micro_batch_tokens(context: StepContext) -> int:
    """On CPU small groups of similar length pay: 2,280 against 1,840 tokens/s for batches of 64 tweets and reviews."""
    if context.config.micro_batch_tokens != "auto":
        return context.config.micro_batch_tokens
    return _CPU_MICRO_BATCH_TOKENS if context.runtime.device.type == "cpu" else _GPU_MICRO_BATCH_TOKENS


def _backward(context: StepContext, rows: npt.NDArray[np.int64], weight: int) -> tuple[float, int]:
    device, network = context.runtime.device, context.network
    batch = pad_rows(context.data.rows, rows, context.padding)
    inputs = model_inputs(batch, getattr(network, "module", network), device)
    with context.runtime.autocast():
        logits = head_logits(network(**inputs))
    assert logits is not None
    targets = torch.from_numpy(_batch_targets(context.data, rows, batch, logits.ndim == 3)).to(device)
    loss = context.task.loss_sum(logits, targets)
    torch.autograd.backward(loss * (context.world_size / weight if weight else 0.0))
    return (float(loss.detach()) if weight else 0.0), int(batch.ids_BS.size) if weight else 0


def _batch_targets(
    data: TokenData, rows: npt.NDArray[np.int64], batch: PaddedBatch, over_tokens: bool
) -> npt.NDArray[np.float32]:
    """Targets of some windows: [B, K], or [B, S] laid out like the padded ids."""
    if not over_tokens:
        return np.stack([data.targets.values[data.targets.offsets[r] : data.targets.offsets[r + 1]] for r in rows])
    laid_out = np.full(batch.ids_BS.shape, IGNORED, np.float32)
    laid_out[batch.mask_BS.astype(bool)] = data.targets.values[flat_positions(data.rows, rows)]
    return laid_out


def _no_sync(network: Any) -> Any:
    return network.no_sync() if hasattr(network, "no_sync") else contextlib.nullcontext()
