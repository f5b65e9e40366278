"""The same steps on one rank or several. As a script: one rank of several, over a file both can see.

python -m tests.flow.two_ranks DIRECTORY RANK WORLD_SIZE
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.finetune.fitted import fit_new_heads
from pipeline.finetune.parallel import DataParallel, spread_network, trained_part
from pipeline.finetune.plan import share_batch
from pipeline.finetune.step import TrainingHead, run_step
from pipeline.tasks.numbers import fixed_targets
from tests.tiny import make_tokenizer
from tests.unit.finetune import hidden_tokens
from tests.unit.finetune.many_heads import context_of, head_of, heads_of, join, pair_data
from tests.unit.finetune.training import token_data

Result = dict[str, np.ndarray]
SHARDED = ("triplets", "one pair", "labels for one rank", "hidden tokens", "next sentences for one rank", "all three")
FITTED = "fitted heads"
KINDS: tuple[DataParallel, ...] = ("ddp", "fsdp")
NUM_STEPS = 2  # a gradient that is missing on one rank shows in the step after


def cases(tokenizer: Any) -> dict[str, tuple[tuple[TrainingHead, ...], np.ndarray]]:
    """Name -> heads and the rows of the global batch."""
    every = heads_of(tokenizer)
    return {
        **{
            kind: ((head_of("embedding", pair_data(tokenizer, 18, kind)),), np.array([7, 2, 11, 3, 16, 0, 9]))
            for kind in ("pairs", "triplets", "scored")
        },
        "one pair": ((head_of("embedding", pair_data(tokenizer, 18, "scored")),), np.array([4])),
        "labels and tags": (every[:2], np.array([3, 25, 0, 42, 20, 21, 7, 19, 33])),
        "labels for one rank": (every[:2], np.array([25, 3])),
        "a teacher's embeddings": ((taught_head(tokenizer),), np.array([7, 2, 11, 3, 16, 0, 9])),
        "hidden tokens": ((hidden_tokens.head_of(tokenizer),), np.array([7, 2, 11, 3, 16, 0, 9])),
        "hidden tokens for one rank": ((hidden_tokens.head_of(tokenizer),), np.array([4])),
        "next sentences": ((hidden_tokens.pairing_head(tokenizer),), np.array([7, 2, 11, 3, 16, 0, 9])),
        "next sentences for one rank": ((hidden_tokens.pairing_head(tokenizer),), np.array([4])),
        "all three": (every, np.array([50, 3, 25, 58, 0, 42, 43, 44, 7])),
    }


def taught_head(tokenizer: Any) -> TrainingHead:
    """Texts with made-up embeddings of a wider teacher."""
    data = token_data(tokenizer, 18)
    vectors = np.random.default_rng(0).normal(size=(18, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return head_of("distil-embedding", replace(data, targets=fixed_targets(vectors)))


def run_case(
    heads: tuple[TrainingHead, ...], batch: np.ndarray, rank: int, world_size: int, kind: DataParallel
) -> Result:
    """Gradients after the last step, and this rank's part of the losses."""
    network: Any = spread_network(join(heads), torch.device("cpu"), world_size, kind)
    joined = trained_part(network)
    context = context_of(heads, network, world_size, micro_batch_tokens=60)
    optimizer = torch.optim.SGD(joined.parameters(), lr=0.01)
    share = share_batch(batch, context.row_lengths[batch], world_size)[rank]
    results = [run_step(context, optimizer, batch, share, seed=step * 100 + rank) for step in range(NUM_STEPS)]
    gradients = {name: value.grad for name, value in joined.named_parameters() if value.grad is not None}
    found = {name: (value.full_tensor() if kind == "fsdp" else value).numpy() for name, value in gradients.items()}
    norms = np.array([result.grad_norm for result in results])
    return {**found, "losses": np.array([result.loss for result in results]), "norms": norms}


def fit_heads(heads: tuple[TrainingHead, ...], rank: int, world_size: int, kind: DataParallel) -> Result:
    """What every rank then trains."""
    network: Any = spread_network(join(heads), torch.device("cpu"), world_size, kind)
    context = context_of(heads, network, world_size)
    fit_new_heads(context, [head.name for head in heads], rank)
    weights = dict(trained_part(network).named_parameters())
    found = {name: (value.full_tensor() if kind == "fsdp" else value).detach() for name, value in weights.items()}
    return {**{name: value.numpy() for name, value in found.items()}, "losses": np.zeros(1)}


def run_cases(directory: Path, rank: int, world_size: int, kind: DataParallel = "ddp") -> dict[str, Result]:
    """All cases on this rank; of shared-out weights those that differ in how often ranks call the network."""
    tokenizer = make_tokenizer(directory / f"tokenizer-{rank}-of-{world_size}-{kind}")
    found = {
        name: run_case(heads, batch, rank, world_size, kind)
        for name, (heads, batch) in cases(tokenizer).items()
        if kind == "ddp" or name in SHARDED
    }
    return {**found, FITTED: fit_heads(heads_of(tokenizer)[:2], rank, world_size, kind)}


def main(directory: Path, rank: int, world_size: int) -> None:
    """Run as one of several ranks, with whole weights and with shared-out ones, and write what was found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=world_size)
    for kind in KINDS:
        for name, result in run_cases(directory, rank, world_size, kind).items():
            np.savez(directory / f"{kind}-{name}-{rank}.npz", **result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
