"""Two ranks that exchange gradients through torch.distributed do what one rank does alone."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.flow.two_ranks import FITTED, SHARDED, Result, run_cases
from tests.patience import PATIENCE_S
from tests.rules.sources import ROOT
from tests.unit.finetune.many_heads import assert_near

CASES = ["pairs", "triplets", "scored", "one pair", "labels and tags", "labels for one rank", "hidden tokens"]
CASES += ["a teacher's embeddings", "hidden tokens for one rank", "all three"]
CASES += ["next sentences", "next sentences for one rank", FITTED]
SHARED_OUT = [*SHARDED, FITTED]
BOTH = [*(("ddp", name) for name in CASES), *(("fsdp", name) for name in SHARED_OUT)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Result]]:
    """Both ranks' results of every case, with whole weights on each and with a part on each."""
    directory = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.flow.two_ranks", str(directory)]
    started = [
        subprocess.Popen([*command, str(rank), "2"], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=PATIENCE_S)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return {
        (kind, name): [dict(np.load(directory / f"{kind}-{name}-{rank}.npz")) for rank in range(2)]
        for kind, name in BOTH
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return run_cases(tmp_path_factory.mktemp("alone"), rank=0, world_size=1)


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_gradients_are_those_of_one_rank(
    kind: str, name: str, ranks: dict[tuple[str, str], list[Result]], alone: dict[str, Result]
) -> None:
    first, second = ({key: value for key, value in rank.items() if key != "losses"} for rank in ranks[kind, name])
    expected = {key: value for key, value in alone[name].items() if key != "losses"}
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert_near(first, expected)


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_losses_add_up_to_those_of_one_rank(
    kind: str, name: str, ranks: dict[tuple[str, str], list[Result]], alone: dict[str, Result]
) -> None:
    together = sum(rank["losses"] for rank in ranks[kind, name])
    np.testing.assert_allclose(together, alone[name]["losses"], rtol=1e-4, atol=1e-6)


def test_every_case_is_looked_at(alone: dict[str, Result]) -> None:
    assert sorted(alone) == sorted(CASES)
