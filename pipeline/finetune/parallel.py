"""A network on several ranks: whole on each of them (DDP), or each holds a part of all weights and moments (FSDP2).

Whatever is kept or judged is whole: checkpoints, the best weights, bundles. So a run may go on with another number of
ranks, or in the other way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.encoder.heads import HeadCall, JoinedHeads
from pipeline.errors import ComputeError
from pipeline.finetune.layers import find_layers

DataParallel = Literal["ddp", "fsdp"]


class ShardedHeads:
    """A network of which every rank holds a part; layers are put together when they compute, one after the other.

    Attributes:
        shards: What is trained. All ranks must call it equally often.
        module: The whole network, in the host's memory, as `gather` last left it: to be judged, kept and bundled.
    """

    def __init__(self, joined: JoinedHeads, device: torch.device) -> None:
        self.module = copy.deepcopy(joined).cpu()
        self.shards = joined.to(device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for part in (*find_layers(self.shards.encoder), self.shards):
            fully_shard(part, mesh=mesh)
        self._is_stale = False

    def __call__(self, calls: Mapping[str, HeadCall]) -> dict[str, torch.Tensor]:
        """What JoinedHeads gives for these calls."""
        self._is_stale = True
        outputs: dict[str, torch.Tensor] = self.shards(calls)
        return outputs

    def train(self) -> None:
        """Training mode; the whole network waits outside the device."""
        self.module.cpu()
        self.shards.train()

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """This rank's parts, as DTensors."""
        return self.shards.parameters()

    def gather(self) -> None:
        """Bring the whole network up to date; on every rank at once."""
        if not self._is_stale:
            return
        with torch.no_grad():
            for whole, part in self._pairs():
                whole.copy_(_whole(part))
        self._is_stale = False

    def scatter(self) -> None:
        """Give every rank its part of what the whole network holds."""
        with torch.no_grad():
            for whole, part in self._pairs():
                part.copy_(shard_like(part, whole))
        self._is_stale = False

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        ours, theirs = (chain(network.parameters(), network.buffers()) for network in (self.module, self.shards))
        return zip(ours, theirs, strict=True)


def spread_network(joined: JoinedHeads, device: torch.device, world_size: int, kind: DataParallel) -> Any:
    """Put a network on a device, and on several ranks in the way asked for; one rank alone needs none."""
    if world_size == 1:
        return joined.to(device)
    if kind == "fsdp":
        return ShardedHeads(joined, device)
    devices = [device] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(joined.to(device), device_ids=devices)


def check_precision(kind: DataParallel, autocast_dtype: torch.dtype | None) -> None:
    """Refuse to scale the losses of sharded weights: an overflow on one rank would be skipped there alone.

    Raises:
        ComputeError: fp16 was asked for, or is what this hardware has.
    """
    if kind == "fsdp" and autocast_dtype is torch.float16:
        raise ComputeError(
            "compute.data_parallel is fsdp, and losses cannot be scaled there as fp16 needs it",
            "set compute.precision: bf16 or fp32, or compute.data_parallel: ddp",
        )


def trained_part(network: Any) -> JoinedHeads:
    """What an optimizer works on: the network itself, or this rank's part of it."""
    part: JoinedHeads = network.shards if isinstance(network, ShardedHeads) else getattr(network, "module", network)
    return part


def gather_weights(network: Any) -> None:
    """Make the whole network what the last step left; on every rank at once."""
    if isinstance(network, ShardedHeads):
        network.gather()


def scatter_weights(network: Any) -> None:
    """Go on from what the whole network holds, on every rank."""
    if isinstance(network, ShardedHeads):
        network.scatter()


def all_reduce(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum over all ranks, on the CPU; `device` is where ranks exchange."""
    moved = values.to(device)
    dist.all_reduce(moved)
    return moved.cpu()


def most_over_ranks(network: Any, count: int) -> int:
    """How often ranks have to call a network so that they do so equally often, if this one needs `count` calls."""
    if not isinstance(network, ShardedHeads):
        return count
    counts = torch.tensor([count], device=next(network.parameters()).device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts.item())


def clip_gradients(network: Any, max_norm: float) -> float:
    """Scale gradients down to a length, over all ranks' parts; returns the length they had."""
    return float(_whole(torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)))


def weights_are_finite(network: Any) -> bool:
    """Whether this rank's parts of all trained weights are numbers."""
    parts = [_own(weight).detach() for weight in network.parameters() if weight.requires_grad]
    return bool(torch.stack([part.sum(dtype=torch.float64) for part in parts]).isfinite().all())  # one wait for a GPU


def gather_moments(optimizer: torch.optim.Optimizer, is_kept: bool) -> dict[str, torch.Tensor]:
    """An optimizer's state by `INDEX.NAME`, whole, copied to the CPU; on every rank at once.

    Args:
        optimizer: The optimizer.
        is_kept: Whether this rank wants it; if not, it only gives its parts.
    """
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    found = {}
    for index, values in state.items():
        for name, value in values.items():
            tensor = _whole(torch.as_tensor(value))
            if is_kept:
                found[f"{index}.{name}"] = tensor.detach().cpu().contiguous().clone()
    return found


def restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Go on from what `gather_moments` gave; each rank takes its part."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        is_of_weights = tensor.shape == parameters[int(index)].shape
        value = shard_like(parameters[int(index)], tensor) if is_of_weights else tensor
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def shard_like(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, cut as another one is; the whole itself where nothing is cut."""
    if not isinstance(part, DTensor):
        return whole
    moved = whole.to(part.device)
    return distribute_tensor(moved, part.device_mesh, part.placements, src_data_rank=None)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
