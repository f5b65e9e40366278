"""The pool of workers that a spec asks of a Ray, by what that has to give."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.nodes import Node, fit_cpus
from pipeline.config import ElasticCompute, PoolOptions, ScoringCompute
from pipeline.errors import ComputeError

_RAYS_FRACTIONS = 10_000  # Ray counts in such parts of a GPU, and three thirds must not be more than one
MIN_LOGICAL_CPUS = 4  # below this Ray Data and Ray Train can wait for each other's slots for ever


@dataclass(frozen=True)
class Resources:
    """What the session's Ray has to give.

    Attributes:
        num_cpus: Of all nodes.
        num_gpus: Of all nodes.
        is_local: Nothing else runs on it, and it does not grow.
        can_grow_gpus: An autoscaler can bring nodes with GPUs, though none may be there yet.
        nodes: What each node of a cluster has. Empty: one node has it all.
    """

    num_cpus: int
    num_gpus: int
    is_local: bool
    can_grow_gpus: bool = False
    nodes: tuple[Node, ...] = ()


def choose_pool(compute: ElasticCompute, resources: Resources) -> PoolOptions:
    """Resolve `auto`: one worker per GPU (or as many as share it), or one with every core on CPU; locally what fits.

    Raises:
        ComputeError: GPUs are asked for and the cluster has none, or more workers than fit a local Ray.
    """
    use_gpu = compute.device == "gpu" or (compute.device == "auto" and resources.num_gpus > 0)
    if use_gpu and resources.num_gpus == 0 and not resources.can_grow_gpus:
        raise ComputeError("compute.device is gpu, but the Ray cluster has no GPU", "set compute.device: auto")
    per_gpu = compute.workers_per_gpu if isinstance(compute, ScoringCompute) else 1
    asked = (max(1, resources.num_gpus) * per_gpu if use_gpu else 1) if compute.workers == "auto" else compute.workers
    least, workers = asked if isinstance(asked, tuple) else (asked, asked)
    nodes = resources.nodes or (Node(resources.num_cpus, resources.num_gpus),)
    cpus = fit_cpus(nodes, workers, per_gpu * use_gpu) if compute.cpus_per_worker == "auto" else compute.cpus_per_worker
    room, gpu_room = max(MIN_LOGICAL_CPUS, resources.num_cpus), resources.num_gpus * per_gpu
    if resources.is_local and use_gpu and least > gpu_room:
        asks = f"compute asks for {least} GPU workers; this machine has {resources.num_gpus} GPUs, {per_gpu} to each"
        raise ComputeError(asks, "lower compute.workers or set it to auto")
    if resources.is_local and least * cpus > room:
        asks = f"compute asks for {least} workers with {cpus} CPUs each; this machine has room for {room}"
        raise ComputeError(asks, "lower compute.workers or compute.cpus_per_worker, or set both to auto")
    if resources.is_local:
        workers = min(workers, room // cpus, gpu_room if use_gpu else workers)
    is_elastic = isinstance(asked, tuple) and not resources.is_local
    gpus = math.floor(_RAYS_FRACTIONS / per_gpu) / _RAYS_FRACTIONS if use_gpu else 0.0
    return PoolOptions(workers, cpus, gpus, compute.shard_deadline_s, least if is_elastic else None)
