"""`bertmill models push --hub` through huggingface_hub itself, to a hub of this process; no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification

from pipeline.encoder.bundle import fetch_bundle
from pipeline.storage import Storage
from tests.flow.s3_server import free_ports
from tests.flow.stub_hub import TOKEN, StubHub
from tests.tiny import make_bundle
from tests.unit.jobs.command_line import run_command


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    running = StubHub()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stub speaks the older protocol of large files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", running.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("BERTMILL_REGISTRY", str(tmp_path / "registry"))
    try:
        yield running
    finally:
        running.stop()


def push(*arguments: str) -> str:
    finished = run_command("models", "push", *arguments)
    assert finished.exit_code == 0, finished.stderr
    assert TOKEN not in finished.stdout + finished.stderr
    return finished.stdout


def test_a_version_is_one_commit_and_pushed_again_none(hub: StubHub, tmp_path: Path) -> None:
    info = make_bundle(tmp_path / "bundle")
    assert run_command("models", "publish", str(tmp_path / "bundle"), "--name", "sentiment").exit_code == 0
    said = push("models://sentiment@1", "--hub", "team/sentiment")
    repository = hub.repositories["team/sentiment"]
    assert said == f"pushed sentiment@1: {hub.address}/team/sentiment/commit/{repository.head}\n"
    assert repository.is_private
    assert repository.commits == [f"sentiment@1, model_version {info.model_version}"]
    assert repository.tags == {info.model_version: repository.head}
    assert len(hub.uploads) == 1
    back = tmp_path / "back"
    for name, content in repository.files.items():
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes(content)
    assert fetch_bundle(str(back), Storage()).info == info
    assert AutoModelForSequenceClassification.from_pretrained(back, trust_remote_code=False).config.num_labels == 3
    card = repository.files["README.md"].decode()
    assert 'pipeline_tag: "text-classification"\n' in card
    assert "# sentiment@1\n" in card
    assert push("models://sentiment@1", "--hub", "team/sentiment") == said
    assert len(repository.commits) == 1


def test_another_bundle_takes_the_place_of_the_last_and_of_nothing_else(hub: StubHub, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one")
    push(str(tmp_path / "one"), "--hub", "team/mood", "--public")
    repository = hub.repositories["team/mood"]
    assert not repository.is_private
    pushed = json.loads(repository.files["bundle.json"])
    pushed["files"]["old.json"] = "0" * 64
    repository.files |= {"bundle.json": json.dumps(pushed).encode(), "old.json": b"{}", "notes.md": b"ours"}
    repository.files["README.md"] = b"our card"
    info = make_bundle(tmp_path / "two", ("no", "yes"))
    push(str(tmp_path / "two"), "--hub", "team/mood")
    assert repository.files.keys() == {*info.files, "bundle.json", "notes.md", "README.md"}
    assert repository.files["README.md"] == b"our card"
    assert len(repository.commits) == 2


def test_a_refused_token_and_a_hub_that_is_not_there_are_told_without_the_token(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "bundle")
    asked = ["models", "push", str(tmp_path / "bundle"), "--hub", "team/sentiment", "--debug"]
    monkeypatch.setenv("HF_TOKEN", "hf_wrongAndSecret")
    refused = run_command(*asked)
    assert refused.exit_code == 2
    assert f"the hub at {hub.address} refuses team/sentiment: Invalid credentials" in refused.stderr
    assert "set HF_TOKEN" in refused.stderr
    assert "hf_wrongAndSecret" not in refused.stdout + refused.stderr
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    dead = run_command(*asked)
    assert dead.exit_code == 75
    assert "does not answer" in dead.stderr
    assert "hf_wrongAndSecret" not in dead.stdout + dead.stderr
    assert run_command("models", "push", str(tmp_path / "bundle"), "--hub", "a/b/c").exit_code == 2
