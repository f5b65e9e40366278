"""A Ray to run on, and the pool of workers that a spec asks of it."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jobs.metrics import exported_progress
from jobs.quiet import muted_stderr, own_sigterm
from pipeline.config import ElasticCompute, PoolOptions, ScoringCompute
from pipeline.errors import ComputeError
from pipeline.tracing import span

_CONNECT_TIMEOUT_S = 5
_GPU_DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' own Linux
_RAYS_FRACTIONS = 10_000  # Ray counts in such parts of a GPU, and three thirds must not be more than one
_MIN_LOGICAL_CPUS = 4  # below this Ray Data and Ray Train can wait for each other's slots for ever
_SPARE_CPUS = 1  # that no worker takes: with 4 workers' CPUs of 4 Ray Data starts no work and says nothing


@dataclass(frozen=True)
class Resources:
    """What the session's Ray has to give.

    Attributes:
        num_cpus: For workers, the one that is spared not counted.
        num_gpus: Of all nodes.
        is_local: Nothing else runs on it, and it does not grow.
        can_grow_gpus: An autoscaler can bring nodes with GPUs, though none may be there yet.
        node_cpus: Of the largest node, which no worker can have more than. None: as `num_cpus`.
    """

    num_cpus: int
    num_gpus: int
    is_local: bool
    can_grow_gpus: bool = False
    node_cpus: int | None = None


def ray_session(compute: ElasticCompute, address: str | None) -> AbstractContextManager[PoolOptions]:
    """Connects to a cluster, or starts a local Ray and stops it afterwards; gives the pool the spec asks for.

    What can be known before Ray starts is checked by this call, and the rest when the session is entered: a job that
    writes something first calls it before.

    Raises:
        ComputeError: there is no GPU here, the cluster cannot be reached, or cannot hold what the spec asks for.
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

    if address is None:
        cpus = max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1) + _SPARE_CPUS
        with span("start Ray"), muted_stderr(), own_sigterm():
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    else:
        try:
            with span("connect to Ray"), own_sigterm():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, str(error).splitlines()[0]) from None
    try:
        pool = choose_pool(compute, _local_resources() if address is None else _cluster_resources())
        with contextlib.nullcontext() if address is None else exported_progress():
            yield pool
    finally:
        ray.shutdown()


def _local_resources() -> Resources:
    import ray

    return Resources(os.cpu_count() or 1, int(ray.cluster_resources().get("GPU", 0)), is_local=True)


def _cluster_resources() -> Resources:
    import ray

    total = ray.cluster_resources()
    largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
    cpus = max(1, int(total.get("CPU", 1)) - _SPARE_CPUS)
    return Resources(cpus, int(total.get("GPU", 0)), False, _can_grow_gpus(), max(1, largest))


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


def _no_cluster(address: str, reason: str) -> ComputeError:
    return ComputeError(
        f"no Ray cluster at {address!r}: {reason}",
        "check --address (or RAY_ADDRESS), or leave both out for a local Ray",
    )


def check_local_gpus(compute: ElasticCompute, address: str | None) -> None:
    """Refuse a GPU where none is, before Ray starts; only a local Ray can be judged so early."""
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


def choose_pool(compute: ElasticCompute, resources: Resources) -> PoolOptions:
    """Resolve `auto`: one worker per GPU (or as many as share it), or one with every core on CPU; locally what fits.

    Raises:
        ComputeError: GPUs are asked for and the cluster has none, or more workers than fit a local Ray.
    """
    use_gpu = compute.device == "gpu" or (compute.device == "auto" and resources.num_gpus > 0)
    if use_gpu and resources.num_gpus == 0 and not resources.can_grow_gpus:
        raise ComputeError("compute.device is gpu, but the Ray cluster has no GPU", "set compute.device: auto")
    per_gpu = compute.workers_per_gpu if isinstance(compute, ScoringCompute) else 1
    default_workers = max(1, resources.num_gpus) * per_gpu if use_gpu else 1
    asked = default_workers if compute.workers == "auto" else compute.workers
    least, workers = asked if isinstance(asked, tuple) else (asked, asked)
    share = max(1, min(resources.num_cpus // workers, resources.node_cpus or resources.num_cpus))
    cpus = compute.cpus_per_worker if compute.cpus_per_worker != "auto" else share
    room, gpu_room = max(_MIN_LOGICAL_CPUS, resources.num_cpus), resources.num_gpus * per_gpu
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
