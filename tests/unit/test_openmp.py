"""How OpenMP's threads wait is set before torch is loaded, and left to whoever has set it already."""

from __future__ import annotations

import importlib
import os

import pytest

import pipeline

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("PASSIVE", "4000")),
        ({SPINS: "10"}, ("PASSIVE", "10")),
        ({POLICY: "ACTIVE"}, ("ACTIVE", None)),
        ({POLICY: "PASSIVE"}, ("PASSIVE", None)),
    ],
)
def test_threads_spin_for_a_moment_unless_told_otherwise(
    given: dict[str, str], expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (POLICY, SPINS):
        monkeypatch.setenv(name, "")  # so that what was there is put back, whatever is set here
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    importlib.reload(pipeline)
    assert (os.environ.get(POLICY), os.environ.get(SPINS)) == expected
