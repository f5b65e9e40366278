from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from jobs.cluster import check_local_gpus, ray_session
from jobs.nodes import Node
from jobs.pool import Resources, choose_pool
from jobs.session import guarded, stopping_on_sigterm
from pipeline.config import ComputeConfig, ElasticCompute, PoolOptions, ScoringCompute
from pipeline.errors import AccountingError, ComputeError, InterruptedRunError, RayStartError, TransientStorageError


@pytest.mark.parametrize(
    ("compute", "resources", "expected"),
    [
        ({}, Resources(8, 0, True), PoolOptions(1, 8, 0.0)),
        ({}, Resources(16, 4, True), PoolOptions(4, 4, 1.0)),
        ({}, Resources(6, 4, False), PoolOptions(4, 1, 1.0)),
        ({"device": "cpu"}, Resources(16, 4, True), PoolOptions(1, 16, 0.0)),
        ({"device": "cpu", "workers": 3}, Resources(16, 0, True), PoolOptions(3, 5, 0.0)),
        ({"workers": 2, "cpus_per_worker": 2}, Resources(8, 0, True), PoolOptions(2, 2, 0.0)),
        ({"workers": 4}, Resources(2, 0, True), PoolOptions(4, 1, 0.0)),
        ({}, Resources(31, 0, False, nodes=(Node(8), Node(8), Node(8), Node(7))), PoolOptions(1, 8, 0.0)),
        ({"workers": 4}, Resources(31, 0, False, nodes=(Node(8), Node(8), Node(8), Node(7))), PoolOptions(4, 7, 0.0)),
        ({"workers": 2}, Resources(8, 0, False, nodes=(Node(2), Node(6))), PoolOptions(2, 3, 0.0)),
        ({}, Resources(12, 1, False, nodes=(Node(4, 1), Node(2), Node(6))), PoolOptions(1, 4, 1.0)),
        ({"device": "cpu"}, Resources(12, 1, False, nodes=(Node(4, 1), Node(2), Node(6))), PoolOptions(1, 6, 0.0)),
        ({"workers": 50, "cpus_per_worker": 4}, Resources(8, 0, False), PoolOptions(50, 4, 0.0)),
        ({"device": "gpu", "workers": 1}, Resources(8, 2, True), PoolOptions(1, 8, 1.0)),
        ({"device": "gpu"}, Resources(1, 0, False, can_grow_gpus=True), PoolOptions(1, 1, 1.0)),
        ({"device": "gpu", "workers": 4, "cpus_per_worker": 6}, Resources(1, 0, False, True), PoolOptions(4, 6, 1.0)),
        ({}, Resources(8, 0, False, can_grow_gpus=True), PoolOptions(1, 8, 0.0)),
        ({"workers_per_gpu": 2}, Resources(16, 2, True), PoolOptions(4, 4, 0.5)),
        ({"workers_per_gpu": 3}, Resources(16, 1, False), PoolOptions(3, 5, 0.3333)),
        ({"workers_per_gpu": 2, "workers": 3}, Resources(12, 2, True), PoolOptions(3, 4, 0.5)),
        ({"workers_per_gpu": 2}, Resources(8, 0, True), PoolOptions(1, 8, 0.0)),
    ],
)
def test_auto_becomes_one_worker_per_gpu_or_one_with_all_cores(
    compute: dict[str, object], resources: Resources, expected: PoolOptions
) -> None:
    assert choose_pool(ScoringCompute.model_validate(compute), resources) == expected


@pytest.mark.parametrize(
    ("workers", "resources", "expected"),
    [
        ([1, 3], Resources(8, 0, False), PoolOptions(3, 2, 0.0, min_workers=1)),
        ([2, 9], Resources(4, 0, False), PoolOptions(9, 2, 0.0, min_workers=2)),
        ([3, 3], Resources(4, 0, False), PoolOptions(3, 2, 0.0, min_workers=3)),
        ([2, 4], Resources(1, 0, False, can_grow_gpus=True), PoolOptions(4, 2, 0.0, min_workers=2)),
        ([1, 4], Resources(16, 2, False), PoolOptions(4, 2, 1.0, min_workers=1)),
        ([1, 9], Resources(8, 0, True), PoolOptions(4, 2, 0.0)),
        ([1, 2], Resources(8, 0, True), PoolOptions(2, 2, 0.0)),
        ([1, 9], Resources(16, 4, True), PoolOptions(4, 2, 1.0)),
        ([1, 9], Resources(6, 4, True), PoolOptions(3, 2, 1.0)),
    ],
)
def test_a_range_is_left_to_a_cluster_and_settled_on_one_machine(
    workers: list[int], resources: Resources, expected: PoolOptions
) -> None:
    compute = ElasticCompute.model_validate({"workers": workers, "cpus_per_worker": 2})
    assert choose_pool(compute, resources) == expected


@pytest.mark.parametrize(
    ("compute", "resources", "message"),
    [
        ({"device": "gpu"}, Resources(8, 0, False), "the Ray cluster has no GPU"),
        ({"device": "gpu", "workers": 3}, Resources(8, 2, True), "3 GPU workers; this machine has 2 GPUs"),
        (
            {"device": "gpu", "workers": 5, "workers_per_gpu": 2},
            Resources(8, 2, True),
            "5 GPU workers; this machine has 2 GPUs, 2 to each",
        ),
        ({"workers": 3, "cpus_per_worker": 3}, Resources(8, 0, True), "3 workers with 3 CPUs each; .* room for 8"),
        ({"workers": 9}, Resources(4, 0, True), "9 workers with 1 CPUs each"),
        ({"workers": [3, 9], "cpus_per_worker": 2}, Resources(4, 0, True), "3 workers with 2 CPUs each; .* room for 4"),
        ({"workers": [3, 9], "cpus_per_worker": 1}, Resources(8, 2, True), "3 GPU workers; this machine has 2 GPUs"),
    ],
)
def test_what_the_machine_cannot_hold_is_refused(
    compute: dict[str, object], resources: Resources, message: str
) -> None:
    with pytest.raises(ComputeError, match=message) as caught:
        choose_pool(
            (ScoringCompute if "workers_per_gpu" in compute else ElasticCompute).model_validate(compute), resources
        )
    assert caught.value.remedy


def test_gpus_are_only_looked_for_where_the_work_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = ComputeConfig(device="gpu")
    with pytest.raises(ComputeError, match="this machine has no GPU that torch can use"):
        check_local_gpus(gpu, None)
    with pytest.raises(ComputeError, match="this machine has no GPU"), ray_session(gpu, None):
        pass
    assert check_local_gpus(gpu, "ray://cluster:10001") is None
    assert check_local_gpus(ComputeConfig(), None) is None


def test_a_local_ray_that_does_not_come_up_may_do_so_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_given: object, **_options: object) -> None:
        raise Exception("The current node timed out during startup. The GCS has become overloaded.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stand_in = SimpleNamespace(init=late, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    with pytest.raises(RayStartError, match="did not start on this machine: The current node timed out") as caught:
        ray_session(ComputeConfig(), None).__enter__()
    assert caught.value.exit_code == 75
    stand_in.init = lambda *_given, **_options: 1 / 0
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        ray_session(ComputeConfig(), None).__enter__()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(TransientStorageError("the store is away", "wait"), 75), (AccountingError("rows are missing"), 4)],
)
def test_errors_become_messages_and_exit_codes(
    error: Exception, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(exit_code)), guarded(debug=False):
        raise error
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="130"), guarded(debug=False):
        raise KeyboardInterrupt
    assert "run the same command to go on" in capsys.readouterr().err


def test_other_exceptions_are_bugs_and_pass_through() -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"), guarded(debug=False):
        _ = 1 / 0


def test_a_stop_is_no_failure_that_anybody_catches() -> None:
    """Libraries go on after whatever went wrong, and so does some of ours."""
    done = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            done.append("swallowed")
        done.append("went on")

    with pytest.raises(InterruptedRunError, match="stopped by SIGTERM"), stopping_on_sigterm():
        work()
    assert done == []
