"""A real Ray cluster of one node with its job server, in a process of its own, with token authentication on."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.flow.helpers import REPOSITORY
from tests.flow.s3_server import free_ports
from tests.patience import PATIENCE_S

# not `ray.init`, which gives the agent that starts the jobs a fixed port, taken where another Ray runs
_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 4, "include_dashboard": True, "dashboard_port": int(sys.argv[1]), "dashboard_agent_listen_port": 0}
running = Cluster(initialize_head=True, head_node_args=head)
print("http://" + running.webui_url, flush=True)
import ray
ray.init(address=running.address, log_to_driver=False, logging_level="ERROR")
(node,) = ray.nodes()
print("http://%s:%d/metrics" % (node["NodeManagerAddress"], node["MetricsExportPort"]), flush=True)
sys.stdin.read()
running.shutdown()
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; closing its process's stdin ends it.

    Attributes:
        metrics_url: What Prometheus reads of its node.
    """

    process: subprocess.Popen[str]
    address: str
    metrics_url: str
    token: str

    def environment(self) -> dict[str, str]:
        """What a client needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def stop(self) -> None:
        self.process.communicate(timeout=PATIENCE_S)


def start_cluster(**variables: str) -> Cluster:
    """Start one whose jobs have some variables, and none of this process's own AWS ones."""
    token = secrets.token_hex(16)
    bin_directory = str(Path(sys.executable).parent)  # a job's entrypoint says `python`
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_metrics_report_interval_ms": "500",
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(free_ports(1)[0])],
        cwd="/",  # nothing of the repository is within its reach but what a job brings along
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address, metrics_url = (process.stdout.readline().strip() for _ in range(2))
    assert address.startswith("http://"), f"the cluster of {REPOSITORY} did not start"
    return Cluster(process, address, metrics_url, token)
