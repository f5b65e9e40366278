"""A real Ray cluster of this process's own, and commands on it; for `helpers.run_python`, as a test run has one Ray."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from ray.cluster_utils import Cluster

from tests.patience import PATIENCE_S


@contextlib.contextmanager
def own_cluster(**head: Any) -> Iterator[Cluster]:
    """A cluster of one node, whose arguments these are; it ends with the block, however that ends."""
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def run_on(cluster: Cluster, command: Sequence[str]) -> int:
    """Run one of our commands on the cluster and print what it prints; returns its exit status."""
    done = subprocess.run([*command, "--address", cluster.address], capture_output=True, text=True, timeout=PATIENCE_S)
    print(done.stdout, done.stderr)
    return done.returncode
