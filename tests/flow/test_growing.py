"""A pool that is larger than its cluster: it starts with what is there, and takes the nodes that come."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from pipeline.config import PoolOptions
from pipeline.corpus.stream import stream_shards
from pipeline.studies.stream_scale import SleepingWorker, make_shards
from tests.flow import helpers

NUM_SHARDS, SHARD_S, NUM_WORKERS, NODE_CPUS = 60, 1.5, 4, 2


@dataclass(frozen=True)
class Grown:
    """What was seen of a stream.

    Attributes:
        early: Workers that had done a shard before the second node joined.
        workers: All that had done one at the end.
        shards: How many were done.
    """

    early: int
    workers: int
    shards: int


def stream_while_growing() -> Grown:
    """One node has room for half of the workers; another one joins when some shards are done."""
    import ray

    from tests.flow.clusters import own_cluster

    done, workers, early = 0, set[int](), 0
    shards = make_shards([SHARD_S] * NUM_SHARDS)
    with own_cluster(num_cpus=NODE_CPUS) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        for receipt in stream_shards(shards, SleepingWorker(), PoolOptions(NUM_WORKERS, 1, 0.0)):
            done += receipt.num_rows
            workers.update(receipt["worker"].to_pylist())
            if done == NUM_SHARDS // 10:
                early = len(workers)
                cluster.add_node(num_cpus=NODE_CPUS)
        ray.shutdown()
    return Grown(early, len(workers), done)


@pytest.mark.slow
def test_a_pool_takes_the_nodes_that_come() -> None:
    """In a process of its own: a test run has one Ray."""
    code = "from tests.flow.test_growing import *; print(json.dumps(vars(stream_while_growing())))"
    told = helpers.run_python(code)
    assert told.returncode == 0, told.stderr[-3_000:]
    assert Grown(**json.loads(told.stdout.splitlines()[-1])) == Grown(NODE_CPUS, NUM_WORKERS, NUM_SHARDS)
