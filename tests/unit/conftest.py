"""Unit tests may not sleep or reach the network: both fail here at once. Shared, read-only tiny models."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from tests.tiny import make_bundle, make_encoder, make_tokenizer


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny networks run fastest on one thread, and much faster so on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_sleep_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise AssertionError("a unit test slept or opened a connection")

    monkeypatch.setattr(time, "sleep", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeping costs nothing; the seconds asked for are listed."""
    asked_s: list[float] = []
    monkeypatch.setattr(time, "sleep", asked_s.append)
    return asked_s


@pytest.fixture(scope="session")
def encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with its tokenizer; do not change it."""
    return Path(make_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


@pytest.fixture(scope="session")
def bundle_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle; copy it before changing it."""
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny tokenizer, for use without truncation or padding."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of a directory; variables that bertmill sets are forgotten after the test."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, {"MLFLOW_ALLOW_FILE_STORE": "true"}.get(name, "0"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
