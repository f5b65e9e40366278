from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.encoder.bundle import fetch_bundle, read_bundle_info
from pipeline.errors import ModelError
from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.unit.registry.conftest import MakeBundle


class KilledError(BaseException):
    """What a kill looks like from inside: nothing after it runs."""


class Killed(Storage):
    """A store whose user dies before the last object of a version."""

    def create_bytes(self, uri: str, content: bytes) -> bool:
        if uri.endswith("bundle.json"):
            raise KilledError("killed")
        return super().create_bytes(uri, content)


def test_versions_are_numbered_and_hold_the_bundle(registry: Registry, bundle_of: MakeBundle) -> None:
    first, second = bundle_of("a"), bundle_of("b")
    assert [str(registry.publish(uri, "sentiment")) for uri in (first, second)] == ["sentiment@1", "sentiment@2"]
    published = registry.version("sentiment", 2)
    assert registry.info(published) == read_bundle_info(second, Storage())
    assert fetch_bundle(published.uri, Storage()).info.files.keys() == {"config.json"}  # hashes are checked
    assert (published.claim.source, registry.names()) == (second, ["sentiment"])


def test_one_bundle_is_one_version_of_a_name(registry: Registry, bundle_of: MakeBundle) -> None:
    bundle = bundle_of("a")
    once, again, other = (registry.publish(bundle, name) for name in ("sentiment", "sentiment", "other"))
    assert (once, other.number) == (again, 1)
    assert [str(found) for found in registry.find(registry.info(once).model_version)] == ["other@1", "sentiment@1"]


def test_a_killed_publisher_leaves_no_version_and_the_next_try_fills_its_number(
    registry: Registry, bundle_of: MakeBundle
) -> None:
    bundle = bundle_of("a")
    with pytest.raises(KilledError, match="killed"):
        Registry(registry.uri, Killed()).publish(bundle, "sentiment")
    assert Path(registry.uri, "sentiment/versions/00000001/config.json").exists()
    assert registry.versions("sentiment") == []
    with pytest.raises(ModelError, match="no version 1 of sentiment; there are: none"):
        registry.version("sentiment", 1)
    assert registry.publish(bundle_of("b"), "sentiment").number == 2
    assert registry.publish(bundle, "sentiment").number == 1
    assert [version.number for version in registry.versions("sentiment")] == [1, 2]


def test_racing_publishers_get_a_number_each(registry: Registry, bundle_of: MakeBundle) -> None:
    bundles = [bundle_of(str(index % 4)) for index in range(8)]
    together = threading.Barrier(len(bundles))

    def publish(uri: str) -> tuple[str, int]:
        together.wait()
        return uri, registry.publish(uri, "sentiment").number

    with ThreadPoolExecutor(len(bundles)) as pool:
        found = list(pool.map(publish, bundles))
    by_bundle = dict(found)
    assert all(by_bundle[uri] == number for uri, number in found)
    assert sorted(by_bundle.values()) == [1, 2, 3, 4]
    for version in registry.versions("sentiment"):
        assert registry.info(version) == read_bundle_info(version.claim.source, Storage())


@pytest.mark.parametrize("name", ["", "Sentiment", "a/b", "3", "a@b", "../x"])
def test_names_that_could_lead_elsewhere_are_refused(registry: Registry, bundle_of: MakeBundle, name: str) -> None:
    with pytest.raises(ModelError, match="is no name for a model"):
        registry.publish(bundle_of("a"), name)


def test_a_bundle_that_is_not_sound_is_not_published(registry: Registry, bundle_of: MakeBundle) -> None:
    bundle = bundle_of("a")
    Path(bundle, "config.json").write_text("other")
    with pytest.raises(ModelError, match=r"config\.json differs"):
        registry.publish(bundle, "sentiment")
    assert registry.names() == []
