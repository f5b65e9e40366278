"""The cells of a study, on a stand-in for Ray that runs a task when it is waited for."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.cells import Study, finish_cells, run_cells
from pipeline.config import ComputeConfig, PoolOptions
from pipeline.errors import ComputeError, CorpusError, InterruptedRunError, Stopped, TrainingError


@dataclass(frozen=True)
class FakeCell:
    name: str
    error: Exception | None = None

    def run(self, num_threads: int) -> str:
        if self.error is not None:
            raise self.error
        return f"{num_threads} threads"


class RayError(Exception):
    """Wraps what a task raised, as Ray does."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("wrapped")
        self.cause = cause


@dataclass
class FakeRay:
    """What was asked of it."""

    num_cpus: float = 4.0
    options: dict[str, Any] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    most_waiting: int = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self.num_cpus}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda *arguments: self._start(function, arguments))

    def _start(self, function: Any, arguments: Any) -> Any:
        self.started.append(arguments[0].name)
        return lambda: function(*arguments)

    def wait(self, running: list[Any], num_returns: int) -> Any:
        self.most_waiting = max(self.most_waiting, len(running))
        return running[:num_returns], running[num_returns:]

    def get(self, task: Any) -> Any:
        try:
            return task()
        except Exception as error:
            raise RayError(error) from None


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_a_failed_cell_is_named_and_the_others_go_on(fake_ray: FakeRay, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [FakeCell("a"), FakeCell("b", CorpusError("no rows", "add some")), FakeCell("c")]
    assert run_cells("study", cells, PoolOptions(1, 2, 0.0), 1) == {"b": "CorpusError: no rows\n  -> add some"}
    assert fake_ray.started == ["a", "b", "c"]
    assert "study: 3/3 cells (100%); c: 1 threads" in capsys.readouterr().err


def test_a_stop_while_a_cell_is_waited_for_is_no_cell_s_failure(
    fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_task: Any) -> None:
        raise Stopped(InterruptedRunError("stopped by SIGTERM", "run the same command again"))

    monkeypatch.setattr(fake_ray, "get", stop)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run_cells("study", [FakeCell("a"), FakeCell("b")], PoolOptions(1, 1, 0.0), 1)
    assert fake_ray.started == ["a"]


@pytest.mark.parametrize(("cpus", "at_once"), [(1, 8), (2, 4), (3, 2), (4, 2)])
def test_as_many_run_at_once_as_the_pool_has_cores_for(cpus: int, at_once: int, fake_ray: FakeRay) -> None:
    run_cells("study", [FakeCell(str(number)) for number in range(20)], PoolOptions(2, 4, 0.0), cpus)
    assert fake_ray.most_waiting == at_once
    assert fake_ray.options["num_cpus"] == cpus


def test_cells_take_a_gpu_where_the_pool_has_them(fake_ray: FakeRay) -> None:
    run_cells("study", [FakeCell("a")], PoolOptions(2, 4, 1.0), 1)
    assert fake_ray.options["num_gpus"] == 1.0


def test_more_cores_than_any_machine_has_are_refused(fake_ray: FakeRay) -> None:
    with pytest.raises(ComputeError, match="5 CPUs are asked for each cell; the largest machine has 4"):
        run_cells("study", [FakeCell("a")], PoolOptions(1, 4, 0.0), 5)
    assert fake_ray.started == []


@pytest.mark.usefixtures("fake_ray")
def test_the_report_is_written_whatever_failed_and_failures_end_the_job_with_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.cells.ray_session", lambda *_given: contextlib.nullcontext(PoolOptions(1, 2, 0.0)))
    cells = [(FakeCell(name, CorpusError("no rows", "add some") if name in "ab" else None), False) for name in "abc"]
    study = Study("study", [*cells, (FakeCell("d"), True)], ComputeConfig(), None, 1)
    with pytest.raises(TrainingError, match="2 of 4 cells failed:\n- a: CorpusError: no rows\n  -> add some\n- b: "):
        finish_cells(study, lambda: "the report")
    assert capsys.readouterr().out == "4 cells, of which 1 are already done\nthe report\n"
    done = Study("study", [(FakeCell("d"), True)], ComputeConfig(), None, 1)
    finish_cells(done, lambda: "all")
    assert capsys.readouterr().out == "1 cells, of which 1 are already done\nall\n"
