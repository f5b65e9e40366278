"""Every command here must end before Ray starts: a stand-in fails the test on its first use."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import jobs.cli  # noqa: F401  (imports Ray's modules now, before the stand-in takes their name)
import pipeline.finetune.run
import pipeline.inference.evaluate
import pipeline.inference.run  # noqa: F401
from tests.tiny import write_corpus


@pytest.fixture(autouse=True)
def _ray_never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise AssertionError("Ray was started")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=refuse, cluster_resources=refuse, shutdown=refuse))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def train_raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    """A sound finetune spec."""
    write_corpus(tmp_path / "train", num_files=2)
    return {
        "task": "text-classification",
        "model": str(encoder_directory),
        "data": {"train": str(tmp_path / "train")},
        "output": str(tmp_path / "output"),
    }


@pytest.fixture
def score_raw(tmp_path: Path, bundle_directory: Path) -> dict[str, Any]:
    """A sound score spec."""
    write_corpus(tmp_path / "corpus", num_files=2)
    return {
        "bundle": str(bundle_directory),
        "corpus": {"uri": str(tmp_path / "corpus"), "keep": ["id"]},
        "output": {"uri": str(tmp_path / "output")},
    }


@pytest.fixture
def evaluate_raw(tmp_path: Path, bundle_directory: Path) -> dict[str, Any]:
    """A sound evaluate spec."""
    write_corpus(tmp_path / "labelled", num_files=1)
    return {
        "bundle": str(bundle_directory),
        "corpus": {"uri": str(tmp_path / "labelled")},
        "report": str(tmp_path / "output"),
    }
