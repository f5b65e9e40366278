from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import CommitConflictError, ModelError
from pipeline.registry.aliases import NEVER_SET, Alias, list_aliases
from pipeline.registry.resolve import find_version, resolve_model
from pipeline.registry.versions import Registry, Version
from pipeline.storage import Storage
from tests.unit.registry.conftest import MakeBundle


@pytest.fixture
def versions(registry: Registry, bundle_of: MakeBundle) -> list[Version]:
    return [registry.publish(bundle_of(content), "sentiment") for content in "abc"]


@pytest.fixture
def alias(registry: Registry) -> Alias:
    return Alias(registry, "sentiment", "production")


class DeafStorage(Storage):
    """A store that does as it is told and whose answer is lost: the retry finds its own object."""

    def create_bytes(self, uri: str, content: bytes) -> bool:
        super().create_bytes(uri, content)
        return False


def test_an_alias_names_what_it_was_moved_to(registry: Registry, versions: list[Version], alias: Alias) -> None:
    assert alias.now() == NEVER_SET
    for version in versions:
        alias.move(version, alias.now(), ["macro_f1 0.9"])
        assert alias.version() == version
    assert [move.version for move in alias.history()] == [1, 2, 3]
    assert alias.now().gates == ("macro_f1 0.9",)
    assert list_aliases(registry, "sentiment") == ["production"]


def test_rollbacks_go_back_step_by_step(versions: list[Version], alias: Alias) -> None:
    for version in versions:
        alias.move(version, alias.now())
    assert [alias.roll_back().version, alias.roll_back().version] == [2, 1]
    with pytest.raises(ModelError, match="no version before"):
        alias.roll_back()
    alias.move(versions[2], alias.now())
    assert alias.roll_back().version == 1
    assert [move.version for move in alias.history()] == [1, 2, 3, 2, 1, 3, 1]


def test_who_saw_an_older_state_moves_nothing(versions: list[Version], alias: Alias) -> None:
    seen = alias.now()
    alias.move(versions[0], seen)
    with pytest.raises(CommitConflictError, match=r"moved by somebody else to sentiment@1"):
        alias.move(versions[1], seen)
    assert alias.version() == versions[0]


def test_of_many_that_race_one_wins(versions: list[Version], alias: Alias) -> None:
    alias.move(versions[0], alias.now())
    seen, together = alias.now(), threading.Barrier(8)

    def promote(index: int) -> int | None:
        together.wait()
        try:
            return alias.move(versions[1 + index % 2], seen).version
        except CommitConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(promote, range(8)) if number is not None]
    assert len(won) == 1
    assert alias.now().version == won[0]
    assert len(alias.history()) == 2


def test_a_move_whose_answer_was_lost_is_known_again(registry: Registry, versions: list[Version]) -> None:
    deaf = Alias(Registry(registry.uri, DeafStorage()), "sentiment", "production")
    assert deaf.move(versions[1], deaf.now()).version == 2


def test_references_are_resolved(
    registry: Registry, versions: list[Version], alias: Alias, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias.move(versions[1], alias.now())
    assert find_version("models://sentiment@production", registry) == versions[1]
    assert find_version("sentiment@3", registry) == versions[2]
    assert resolve_model("s3://bucket/bundle", None, Storage()) == "s3://bucket/bundle"
    assert resolve_model("models://sentiment@1", registry.uri, Storage()) == versions[0].uri
    monkeypatch.setenv("BERTMILL_REGISTRY", registry.uri)
    assert resolve_model("models://sentiment@production", None, Storage()) == versions[1].uri


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("models://sentiment@candidate", r"has no alias 'candidate'; there are: production"),
        ("models://sentiment@9", r"no version 9 of sentiment; there are: 1, 2, 3"),
        ("models://sentiment", r"expected NAME@ALIAS or NAME@VERSION"),
        ("models://../x@1", r"expected NAME@ALIAS or NAME@VERSION"),
    ],
)
def test_what_is_not_there_is_said(
    registry: Registry, versions: list[Version], alias: Alias, reference: str, says: str
) -> None:
    alias.move(versions[0], alias.now())
    with pytest.raises(ModelError, match=says):
        find_version(reference, registry)


def test_without_a_registry_nothing_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTMILL_REGISTRY", raising=False)
    with pytest.raises(ModelError, match=r"no registry is named"):
        resolve_model("models://sentiment@1", None, Storage())
