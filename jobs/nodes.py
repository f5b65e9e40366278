"""How many workers a cluster's nodes hold: one lies whole on a node, so that sums over nodes say too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import PoolOptions


@dataclass(frozen=True)
class Node:
    """What one node has to give."""

    num_cpus: int
    num_gpus: int = 0


def count_places(nodes: Sequence[Node], cpus: float, per_gpu: int) -> int:
    """Workers that the nodes hold at once.

    Args:
        nodes: The nodes.
        cpus: Of each worker.
        per_gpu: Workers that share a GPU; 0 for workers without one.
    """
    by_cpus = [int(node.num_cpus // cpus) for node in nodes]
    return sum(min(n, node.num_gpus * per_gpu) if per_gpu else n for n, node in zip(by_cpus, nodes, strict=True))


def fit_cpus(nodes: Sequence[Node], workers: int, per_gpu: int) -> int:
    """The most CPUs a worker can have if the workers, or as many as the nodes hold at all, are to have a place each."""
    if not any(node.num_gpus for node in nodes):
        per_gpu = 0  # nodes with GPUs are still to come
    placed = max(1, min(workers, count_places(nodes, 1, per_gpu)))
    most = max((node.num_cpus for node in nodes), default=1)
    return max((cpus for cpus in range(1, most + 1) if count_places(nodes, cpus, per_gpu) >= placed), default=1)


def lacking_note(nodes: Sequence[Node], pool: PoolOptions) -> str | None:
    """What to say where the nodes do not hold the pool's workers, or the fewest it goes on with; None where they do."""
    workers, cpus = pool.min_workers or pool.num_workers, pool.cpus_per_worker
    per_gpu = int(1 / pool.gpus_per_worker) if pool.gpus_per_worker else 0
    places = count_places(nodes, cpus, per_gpu)
    if places >= workers:
        return None
    gpu = {0: "", 1: " and a GPU"}.get(per_gpu, f" and a part (1/{per_gpu}) of a GPU")
    return (
        f"the cluster's nodes hold {places} of {workers} workers with {cpus:g} CPUs{gpu} each; the others wait for "
        "nodes that an autoscaler may bring: where none does, lower compute.workers or compute.cpus_per_worker"
    )
