from __future__ import annotations

import itertools

import pytest

from jobs.nodes import Node, count_places, fit_cpus, lacking_note
from pipeline.config import PoolOptions


@pytest.mark.parametrize(
    ("nodes", "workers", "per_gpu", "expected"),
    [
        ([Node(8)], 1, 0, 8),
        ([Node(8)], 3, 0, 2),
        ([Node(2), Node(6)], 1, 0, 6),
        ([Node(2), Node(6)], 2, 0, 3),
        ([Node(2), Node(6)], 4, 0, 2),
        ([Node(2), Node(6)], 5, 0, 1),
        ([Node(2), Node(6)], 50, 0, 1),
        ([Node(0), Node(4)], 2, 0, 2),
        ([Node(0)], 2, 0, 1),
        ([], 2, 0, 1),
        ([Node(4, 1), Node(2), Node(6)], 1, 1, 4),
        ([Node(4, 1), Node(8, 1), Node(64)], 2, 1, 4),
        ([Node(4, 1), Node(32, 4)], 4, 1, 8),
        ([Node(4, 1), Node(32, 4)], 5, 1, 4),
        ([Node(16, 1), Node(64)], 3, 3, 5),
        ([Node(16, 1), Node(16, 1)], 8, 1, 16),  # more than there are GPUs for: the nodes to come are like these
        ([Node(8)], 2, 1, 4),  # nodes with GPUs are still to come
    ],
)
def test_a_share_is_the_most_that_every_worker_can_have(
    nodes: list[Node], workers: int, per_gpu: int, expected: int
) -> None:
    assert fit_cpus(nodes, workers, per_gpu) == expected


def test_a_share_places_as_many_workers_as_one_cpu_each_would() -> None:
    kinds = [Node(0), Node(2), Node(3, 1), Node(6), Node(7, 2), Node(16, 4)]
    for nodes in itertools.combinations_with_replacement(kinds, 3):
        for workers, per_gpu in itertools.product(range(1, 9), range(3)):
            share = fit_cpus(nodes, workers, per_gpu)
            with_gpus = per_gpu if any(node.num_gpus for node in nodes) else 0
            wanted = min(workers, count_places(nodes, 1, with_gpus))
            assert count_places(nodes, share, with_gpus) >= wanted
            assert wanted == 0 or count_places(nodes, share + 1, with_gpus) < wanted


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (PoolOptions(2, 2, 0.0), None),
        (PoolOptions(2, 4, 0.0), "nodes hold 1 of 2 workers with 4 CPUs each"),
        (PoolOptions(1, 8, 0.0), "nodes hold 0 of 1 workers with 8 CPUs each"),
        (PoolOptions(1, 6, 1.0), "nodes hold 0 of 1 workers with 6 CPUs and a GPU each"),
        (PoolOptions(3, 1, 0.3333), "nodes hold 2 of 3 workers with 1 CPUs and a part (1/3) of a GPU each"),
        (PoolOptions(9, 2, 0.0, min_workers=4), None),
        (PoolOptions(9, 2, 0.0, min_workers=5), "nodes hold 4 of 5 workers with 2 CPUs each"),
    ],
)
def test_workers_without_a_place_are_told(pool: PoolOptions, expected: str | None) -> None:
    note = lacking_note([Node(2, 1), Node(6)], pool)
    assert note is None if expected is None else note is not None and expected in note
