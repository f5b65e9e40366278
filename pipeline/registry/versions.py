"""Versions of models: numbered, immutable copies of bundles.

A number is taken by creating its claim, which the store lets exactly one publisher do, and the version is there when
its `bundle.json` is, which is written last: of a publisher that was killed in between only a number is left, which no
reader takes for a version and which the same bundle, published again, fills. The same bundle under the same name is
one version, however often it is published.

    REGISTRY/NAME/versions/00000003.json           the claim: digest of the bundle, where it came from, when
    REGISTRY/NAME/versions/00000003/bundle.json    the bundle, as `bertmill finetune` writes it
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline.encoder.bundle import BUNDLE_FILE, BundleInfo, fetch_bundle, read_bundle_info
from pipeline.errors import ModelError
from pipeline.registry.reference import check_name
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri

_VERSIONS = "versions"


@dataclass(frozen=True)
class Claim:
    """Who took a version's number.

    Attributes:
        digest: SHA-256 of the bundle's `bundle.json`, which holds the hash of every other file.
        source: Where it was published from.
        published_at: When that began, ISO 8601.
        token: Of this one attempt, so that it knows its own claim again where the store's answer was lost.
    """

    digest: str
    source: str
    published_at: str
    token: str


@dataclass(frozen=True)
class Version:
    """One version of a model; `uri` is a bundle like any other."""

    name: str
    number: int
    uri: str
    claim: Claim

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Registry:
    """A registry's place and store."""

    uri: str
    storage: Storage

    def publish(self, source: str, name: str) -> Version:
        """Copy a bundle into the registry; run again, or racing another, it ends in the same version.

        Raises:
            ModelError: there is no sound bundle at `source`, or the name will not do.
        """
        check_name(name, "a model")
        bundle = fetch_bundle(source, self.storage)
        content = bundle.info.model_dump_json(indent=2).encode()
        version = self._claim(name, hashlib.sha256(content).hexdigest(), canonical_uri(source))
        if not self.is_whole(version):
            for file in sorted(bundle.info.files):
                self.storage.upload(bundle.path / file, join_uri(version.uri, file))
            self.storage.create_bytes(join_uri(version.uri, BUNDLE_FILE), content)
        return version

    def versions(self, name: str) -> list[Version]:
        """Every version of a model, the oldest first."""
        return [version for version in self._claimed(name) if self.is_whole(version)]

    def names(self) -> list[str]:
        """Names of models that were ever published here."""
        prefix = f"{self.uri}/"
        found = (item.uri.removeprefix(prefix).split("/") for item in self.storage.list_objects(self.uri))
        return sorted({parts[0] for parts in found if len(parts) > 2 and parts[1] == _VERSIONS})

    def version(self, name: str, number: int) -> Version:
        """One version.

        Raises:
            ModelError: there is none by this number.
        """
        version = self._read_claim(name, number)
        if version is None or not self.is_whole(version):
            known = ", ".join(str(found.number) for found in self.versions(name)) or "none"
            raise ModelError(f"{self.uri}: no version {number} of {name}; there are: {known}", "bertmill models list")
        return version

    def info(self, version: Version) -> BundleInfo:
        """What a version's bundle says of itself."""
        return read_bundle_info(version.uri, self.storage)

    def is_whole(self, version: Version) -> bool:
        """Whether a version's bundle is completely there."""
        return self.storage.read_bytes(join_uri(version.uri, BUNDLE_FILE)) is not None

    def find(self, model_version: str) -> list[Version]:
        """Versions, of any name, whose bundle scores rows as this `model_version`."""
        every = (version for name in self.names() for version in self.versions(name))
        return [version for version in every if self.info(version).model_version == model_version]

    def _claim(self, name: str, digest: str, source: str) -> Version:
        """The number of a bundle that has one, else the next that is free."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        own = Claim(digest, source, now, uuid.uuid4().hex)
        content = json.dumps(asdict(own), indent=2).encode()
        while True:
            claimed = list(self._claimed(name))
            for version in claimed:
                if version.claim.digest == digest:
                    return version
            number = claimed[-1].number + 1 if claimed else 1
            uri = self._claim_uri(name, number)
            if self.storage.create_bytes(uri, content) or self.storage.read_bytes(uri) == content:
                return Version(name, number, self._uri(name, number), own)

    def _claimed(self, name: str) -> Iterator[Version]:
        prefix = join_uri(self.uri, name, _VERSIONS)
        names = (item.uri.removeprefix(f"{prefix}/") for item in self.storage.list_objects(prefix))
        numbers = (found.removesuffix(".json") for found in names if found.endswith(".json") and "/" not in found)
        for number in sorted(int(found) for found in numbers if found.isdecimal()):
            version = self._read_claim(name, number)
            if version is not None:
                yield version

    def _read_claim(self, name: str, number: int) -> Version | None:
        content = self.storage.read_bytes(self._claim_uri(name, number))
        if content is None:
            return None
        return Version(name, number, self._uri(name, number), Claim(**json.loads(content)))

    def _uri(self, name: str, number: int) -> str:
        return join_uri(self.uri, name, _VERSIONS, f"{number:08d}")

    def _claim_uri(self, name: str, number: int) -> str:
        return f"{self._uri(name, number)}.json"
