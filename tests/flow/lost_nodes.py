"""A real cluster of several nodes, a recorded `bertmill finetune` on it, and what happens to its nodes meanwhile.

python -m tests.flow.lost_nodes FATE WORK NUM_NODES SPEC [OPTIONS]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.patience import PATIENCE_S
from tests.recording import hold_at, read_record

NODE_CPUS = 2  # a worker takes a whole node, and has no room on the head
FIRST_HOLD, SECOND_HOLD = 25, 45  # in the middle of an epoch, and between two checkpoints
AFTER_NOTICE = 31  # just after a tenth step, when the loop asks what is wished
_NODE_CHECKS = {  # a dead node is known after 5 s instead of 15
    "health_check_initial_delay_ms": 1_000,
    "health_check_period_ms": 1_000,
    "health_check_failure_threshold": 5,
    "health_check_timeout_ms": 5_000,
}


_QUICKER_RAY_TRAIN = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
_NOTICE_S = 8  # until every worker has been told of a notice


class Story:
    """A cluster with a training at work on it."""

    def __init__(self, work: Path, num_nodes: int, command: list[str]) -> None:
        self.work = work
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": _NODE_CHECKS},
        )
        for _ in range(num_nodes):
            self.add_node()
        self.process = subprocess.Popen(
            [*command, "--address", self.cluster.address], env={**os.environ, **_QUICKER_RAY_TRAIN}
        )

    def add_node(self) -> None:
        self.cluster.add_node(num_cpus=NODE_CPUS)

    def kill_node_of_rank_0(self) -> None:
        """Kill -9 to everything on it, the checkpoints' writer included."""
        name = self._node_of_rank_0()
        (node,) = (node for node in self.cluster.worker_nodes if node.node_id == name)
        (raylet,) = node.all_processes["raylet"]
        workers = psutil.Process(raylet.process.pid).children(recursive=True)
        self.cluster.remove_node(node, allow_graceful=False)
        for worker in workers:  # by themselves they would go on for a moment
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    def announce_loss_of_node_of_rank_0(self) -> None:
        """What a cloud's notice of preemption becomes in Ray."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.cluster.address]
        command += ["--node-id", self._node_of_rank_0(), "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "spot", "--deadline-remaining-seconds", "90"]
        subprocess.run(command, check=True, timeout=PATIENCE_S)
        time.sleep(_NOTICE_S)

    def _node_of_rank_0(self) -> str:
        return max((part for part in read_record(self.work) if part.rank == 0), key=lambda part: part.attempt).node

    def wait_for_step(self, step: int, attempt: int, num_ranks: int) -> None:
        """Until an attempt, the run's first being 1, is done with a step and has so many workers."""

        def is_there() -> bool:
            parts = read_record(self.work)
            attempts = sorted({part.attempt for part in parts})
            found = {part.rank for part in parts if attempts.index(part.attempt) + 1 == attempt and part.step == step}
            return len(found) == num_ranks

        self._wait(is_there, f"step {step} of attempt {attempt} on {num_ranks} workers")

    def wait_for_checkpoints(self, number: int) -> None:
        """Until Ray Train's controller knows of so many; it hears of them only seconds after they are complete."""
        self._wait(lambda: self._num_checkpoints() >= number, f"{number} checkpoints")

    def _num_checkpoints(self) -> int:
        notes = list(self.work.glob("run-*/checkpoint_manager_snapshot.json"))
        try:
            return sum(len(json.loads(note.read_text())["checkpoint_results"]) for note in notes)
        except ValueError:  # just being written
            return 0

    def _wait(self, is_there: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            if is_there():
                print(f"seen: {what}", flush=True)
                return
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"never saw {what}; exit status {self.process.poll()}")


def nothing(story: Story) -> None:
    """The undisturbed run."""


def replaced(story: Story) -> None:
    """A node dies, another one comes."""
    num_nodes = _lose_a_node(story)
    story.add_node()
    story.wait_for_step(FIRST_HOLD - 1, 2, num_nodes)


def shrinks_and_grows(story: Story) -> None:
    """A node dies and is missed for a while."""
    num_nodes = _lose_a_node(story)
    story.wait_for_step(FIRST_HOLD - 1, 2, num_nodes - 1)
    hold_at(story.work, SECOND_HOLD)
    story.wait_for_step(SECOND_HOLD - 1, 2, num_nodes - 1)
    story.add_node()
    story.wait_for_step(SECOND_HOLD - 1, 3, num_nodes)


def announced(story: Story) -> None:
    """A node is lost with a notice, long after the last checkpoint; another one comes."""
    num_nodes = len(story.cluster.worker_nodes)
    story.wait_for_step(FIRST_HOLD - 1, 1, num_nodes)
    story.announce_loss_of_node_of_rank_0()
    hold_at(story.work, AFTER_NOTICE)
    story.wait_for_checkpoints(1)
    story.kill_node_of_rank_0()
    story.add_node()
    story.wait_for_step(AFTER_NOTICE - 1, 2, num_nodes)


def _lose_a_node(story: Story) -> int:
    """In the middle of the first epoch; returns how many nodes there were."""
    num_nodes = len(story.cluster.worker_nodes)
    story.wait_for_step(FIRST_HOLD - 1, 1, num_nodes)
    story.wait_for_checkpoints(2)
    story.kill_node_of_rank_0()
    return num_nodes


FATES: dict[str, Callable[[Story], None]] = {
    fate.__name__: fate for fate in (nothing, replaced, announced, shrinks_and_grows)
}


def main(fate: str, work: Path, num_nodes: int, *arguments: Any) -> int:
    """Run a story to its end; returns the training's exit status."""
    if fate != "nothing":
        hold_at(work, FIRST_HOLD)
    story = Story(work, num_nodes, [sys.executable, "-m", "tests.flow.recorded", *arguments])
    try:
        FATES[fate](story)
        hold_at(work, sys.maxsize)
        return story.process.wait(timeout=PATIENCE_S)
    finally:
        story.process.kill()
        story.cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
