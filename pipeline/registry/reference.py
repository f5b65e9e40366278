"""`models://NAME@ALIAS` and `models://NAME@VERSION`: a bundle by what it is called."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pipeline.errors import ModelError
from pipeline.uris import canonical_uri

SCHEME = "models://"
REGISTRY_VARIABLE = "BERTMILL_REGISTRY"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Reference:
    """A model's name, and either an alias or a version's number."""

    name: str
    alias: str = ""
    number: int = 0

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}@{self.alias or self.number}"


def is_reference(uri: str) -> bool:
    """Whether a place is named by a registry."""
    return uri.startswith(SCHEME)


def parse_reference(text: str) -> Reference:
    """Read `NAME@ALIAS` or `NAME@VERSION`, with or without `models://`.

    Raises:
        ModelError: it is neither.
    """
    name, _, which = text.removeprefix(SCHEME).partition("@")
    if not _NAME.fullmatch(name) or not (which.isdecimal() or _NAME.fullmatch(which)):
        raise ModelError(f"{text}: not the name of a model; expected NAME@ALIAS or NAME@VERSION", "as in sentiment@3")
    return Reference(name, number=int(which)) if which.isdecimal() else Reference(name, alias=which)


def check_name(name: str, what: str) -> str:
    """Refuse names of models and aliases that could not stand in a reference.

    Raises:
        ModelError: saying which `what` it is.
    """
    if not _NAME.fullmatch(name):
        expected = "lower-case letters, digits, '_' and '-', a letter first"
        raise ModelError(f"{name!r} is no name for {what}; expected {expected}", "choose another name")
    return name


def find_registry(given: str | None) -> str:
    """Where the registry is: as given, else $BERTMILL_REGISTRY.

    Raises:
        ModelError: neither is there.
    """
    uri = given or os.environ.get(REGISTRY_VARIABLE)
    if not uri:
        raise ModelError(
            "no registry is named, and models:// needs one",
            f"give `registry: URI` in the spec, --registry URI on the command line, or ${REGISTRY_VARIABLE}",
        )
    return canonical_uri(uri)
