"""Pushing to MLflow's registry in a directory, by its client alone, as mlflow-skinny has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from pipeline.encoder.bundle import fetch_bundle
from pipeline.storage import Storage
from tests.tiny import make_bundle
from tests.unit.jobs.command_line import assert_refused, models, run_command


@pytest.fixture
def client(mlflow_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's, beside a registry of bertmill's own."""
    monkeypatch.setenv("BERTMILL_REGISTRY", str(tmp_path / "registry"))
    return mlflow_client


def test_a_version_is_pushed_once_and_comes_back_as_the_same_bundle(
    tmp_path: Path, client: Any, bundle_directory: Path
) -> None:
    models("publish", str(bundle_directory), "--name", "sentiment")
    push = ["push", "models://sentiment@1", "--mlflow", str(tmp_path / "mlruns")]
    assert models(*push) == "pushed sentiment@1: models:/sentiment/1\n"
    assert models(*push, "--alias", "production") == "pushed sentiment@1: models:/sentiment/1\n"
    (version,) = client.search_model_versions("name = 'sentiment'")
    info = fetch_bundle(str(bundle_directory), Storage()).info
    assert version.tags["bertmill.model_version"] == info.model_version
    assert version.description == "sentiment@1"
    assert client.get_model_version_by_alias("sentiment", "production").version == version.version
    back = Path(client.download_artifacts(version.run_id, "bundle", str(tmp_path)))
    assert fetch_bundle(str(back), Storage()).info == info
    loaded = AutoModelForSequenceClassification.from_pretrained(back, trust_remote_code=False)
    assert loaded.config.num_labels == len(info.labels)
    assert client.get_model_version_download_uri("sentiment", version.version).endswith("/bundle")


def test_another_bundle_is_the_next_version(tmp_path: Path, client: Any, bundle_directory: Path) -> None:
    make_bundle(tmp_path / "other", ("no", "yes"))
    place = ["--mlflow", str(tmp_path / "mlruns"), "--as", "mood"]
    for number, bundle in enumerate([bundle_directory, tmp_path / "other"], 1):
        assert models("push", str(bundle), *place) == f"pushed {bundle}: models:/mood/{number}\n"
    assert models("push", str(bundle_directory), *place).endswith("models:/mood/1\n")
    assert len(client.search_model_versions("name = 'mood'")) == 2


@pytest.mark.usefixtures("client")
def test_a_directory_may_be_named_from_where_one_stands(
    tmp_path: Path, client: Any, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert models("push", str(bundle_directory), "--mlflow", "mlruns", "--as", "mood").endswith("models:/mood/1\n")
    assert len(client.search_model_versions("name = 'mood'")) == 1


def test_what_cannot_be_pushed_is_said(tmp_path: Path, bundle_directory: Path) -> None:
    own = str(bundle_directory)
    assert_refused(run_command("models", "push", own), "both or neither of --hub and --mlflow")
    assert_refused(run_command("models", "push", own, "--mlflow", str(tmp_path)), "--as NAME")
    assert_refused(run_command("models", "push", str(tmp_path), "--hub", "a/b"), "no bundle.json")
    dead = run_command("models", "push", own, "--mlflow", "http://127.0.0.1:9", "--as", "mood")
    assert_refused(dead, "mlflow: http://127.0.0.1:9 cannot be used")


def test_a_missing_client_is_refused_with_its_extra(
    tmp_path: Path, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    place = ["--mlflow", str(tmp_path / "mlruns"), "--as", "mood"]
    refused = run_command("models", "push", str(bundle_directory), *place)
    assert_refused(refused, "needs mlflow-skinny, not installed here\n  -> pip install 'bertmill[mlflow]'")
