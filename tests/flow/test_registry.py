"""The registry on a real store: promotions by racing processes, and a publisher killed before its last write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.registry.aliases import Alias
from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow.helpers import REPOSITORY
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

PROMOTE = """
import sys
from pipeline.errors import CommitConflictError
from pipeline.registry.aliases import Alias
from pipeline.registry.versions import Registry
from pipeline.storage import Storage

registry = Registry(sys.argv[1], Storage())
alias = Alias(registry, "sentiment", "production")
version, seen = registry.version("sentiment", int(sys.argv[2])), alias.now()
print("ready", flush=True)
sys.stdin.readline()
try:
    print(alias.move(version, seen).version)
except CommitConflictError:
    print("lost")
"""
PUBLISH_AND_DIE = """
import os, signal, sys
from pipeline.registry.versions import Registry
from pipeline.storage import Storage

class Killed(Storage):
    def create_bytes(self, uri, content):
        if uri.endswith("bundle.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().create_bytes(uri, content)

Registry(sys.argv[1], Killed()).publish(sys.argv[2], "sentiment")
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdin=pipe, stdout=pipe, text=True)


@pytest.fixture
def bundles(tmp_path: Path) -> list[str]:
    for seed in (1, 2):
        make_bundle(tmp_path / f"bundle-{seed}", seed=seed)
    return [str(tmp_path / f"bundle-{seed}") for seed in (1, 2)]


def test_a_killed_publisher_is_invisible_and_one_of_two_racing_promotions_wins(
    root_uri: str, bundles: list[str]
) -> None:
    registry = Registry(join_uri(root_uri, "registry"), Storage())
    killed = start(PUBLISH_AND_DIE, registry.uri, bundles[0])
    killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -9
    half = [item.uri.rsplit("/", 1)[-1] for item in registry.storage.list_objects(registry.uri)]
    assert "model.safetensors" in half
    assert registry.versions("sentiment") == []

    versions = [registry.publish(bundle, "sentiment") for bundle in bundles]
    assert [version.number for version in versions] == [1, 2]
    racing = [start(PROMOTE, registry.uri, str(number)) for number in (1, 2)]
    for process in racing:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n", timeout=PATIENCE_S)[0].strip() for process in racing]
    assert answers.count("lost") == 1
    alias = Alias(registry, "sentiment", "production")
    assert str(alias.version().number) in answers
    assert len(alias.history()) == 1
