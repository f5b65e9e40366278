"""A Ray to run on, local or a cluster."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

from jobs.metrics import exported_progress
from jobs.nodes import Node, lacking_note
from jobs.pool import MIN_LOGICAL_CPUS, Resources, choose_pool
from jobs.quiet import muted_stderr, own_sigterm
from pipeline.config import ElasticCompute, PoolOptions
from pipeline.errors import ComputeError, RayStartError, first_line
from pipeline.tracing import span

# Read as ray is imported: a call that outlives its session must not start a Ray of its own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
_CONNECT_TIMEOUT_S = 5
_GPU_DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' own Linux


def ray_session(compute: ElasticCompute, address: str | None) -> AbstractContextManager[PoolOptions]:
    """Connects to a cluster, or starts a local Ray and stops it afterwards; gives the pool the spec asks for.

    What can be known before Ray starts is checked by this call, and the rest when the session is entered: a job that
    writes something first calls it before.

    Raises:
        ComputeError: there is no GPU here, the cluster cannot be reached, or cannot hold what the spec asks for.
        RayStartError: a local Ray did not come up.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    check_local_gpus(compute, address)
    if address is not None:
        check_reachable(address)
    return _open_session(compute, address)


@contextlib.contextmanager
def _open_session(compute: ElasticCompute, address: str | None) -> Iterator[PoolOptions]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # C++ warnings about what Ray Data does on purpose
    import ray

    try:
        _start_ray(address)
        resources = _local_resources() if address is None else _cluster_resources()
        pool = choose_pool(compute, resources)
        if address is not None and (note := lacking_note(resources.nodes, pool)):
            print(f"note: {note}")
        with contextlib.nullcontext() if address is None else exported_progress():
            yield pool
    finally:
        ray.shutdown()


def _start_ray(address: str | None) -> None:
    import ray

    if address is None:
        cpus = max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)
        try:
            with span("start Ray"), muted_stderr(), own_sigterm():
                ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            if type(error) is Exception or isinstance(error, ConnectionError | TimeoutError | RuntimeError):
                raise _not_started(first_line(error)) from None  # Ray says with these that a process of its own is late
            raise
    else:
        try:
            with span("connect to Ray"), own_sigterm():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, first_line(error)) from None


def _local_resources() -> Resources:
    import ray

    return Resources(os.cpu_count() or 1, int(ray.cluster_resources().get("GPU", 0)), is_local=True)


def _cluster_resources() -> Resources:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive)
    cpus = max(1, sum(node.num_cpus for node in nodes))
    return Resources(cpus, sum(node.num_gpus for node in nodes), False, _can_grow_gpus(), nodes)


def _can_grow_gpus() -> bool:
    from ray._private.state import state  # nothing public says what the autoscaler may bring; Ray Data asks here too

    return bool((state.get_max_resources_from_cluster_config() or {}).get("GPU"))


def check_reachable(address: str) -> None:
    """Refuse an address at which nothing listens; by itself Ray tries for minutes.

    Raises:
        ComputeError: no connection within a few seconds. Names such as `auto` are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from None


def _not_started(reason: str) -> RayStartError:
    return RayStartError(
        f"Ray did not start on this machine: {reason}",
        "run the same command again when less runs beside it; Ray's own logs are in /tmp/ray/session_latest/logs",
    )


def _no_cluster(address: str, reason: str) -> ComputeError:
    return ComputeError(
        f"no Ray cluster at {address!r}: {reason}",
        "check --address (or RAY_ADDRESS), or leave both out for a local Ray",
    )


def check_local_gpus(compute: ElasticCompute, address: str | None) -> None:
    """Refuse a GPU where none is, before Ray starts; only a local Ray can be judged so early.

    Raises:
        ComputeError: the spec asks for a GPU, and this machine has none.
    """
    if compute.device == "gpu" and address is None and not count_local_gpus():
        raise ComputeError(
            "compute.device is gpu, but this machine has no GPU that torch can use",
            "set compute.device: auto (or --set compute.device=cpu), or give --address of a cluster with GPUs",
        )


def count_local_gpus() -> int:
    """GPUs of this machine that torch can use; where Linux has no driver of one, torch is not loaded to ask."""
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
