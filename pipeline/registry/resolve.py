"""`models://...` -> the version it stands for at this moment."""

from __future__ import annotations

from pipeline.registry.aliases import Alias
from pipeline.registry.reference import find_registry, is_reference, parse_reference
from pipeline.registry.versions import Registry, Version
from pipeline.storage import Storage


def find_version(reference: str, registry: Registry) -> Version:
    """The version that an alias names now, or the one of a number.

    Raises:
        ModelError: there is none.
    """
    wanted = parse_reference(reference)
    if wanted.alias:
        return Alias(registry, wanted.name, wanted.alias).version()
    return registry.version(wanted.name, wanted.number)


def resolve_model(uri: str, registry: str | None, storage: Storage) -> str:
    """The place of a bundle: that of the version for `models://...`, any other as it is.

    Raises:
        ModelError: there is no such version, alias or registry.
    """
    if not is_reference(uri):
        return uri
    return find_version(uri, Registry(find_registry(registry), storage)).uri
