"""Aliases: which version of a model is in use, and which were before.

An alias moves by creating its next generation, which the store lets exactly one contender do: that is compare-and-swap
on any store that can create exclusively, and the generations that stay are the alias's history.

    REGISTRY/NAME/aliases/production/00000007.json
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline.errors import CommitConflictError, ModelError
from pipeline.registry.reference import check_name
from pipeline.registry.versions import Registry, Version
from pipeline.uris import join_uri

_ALIASES = "aliases"


@dataclass(frozen=True)
class Move:
    """One generation of an alias.

    Attributes:
        generation: Its number; 0 stands for an alias that was never set.
        version: The version's number.
        before: The generation that a rollback goes back to; 0 for none.
        moved_at: ISO 8601.
        gates: What was checked before it was moved, one line each.
        token: Of this one attempt.
    """

    generation: int
    version: int
    before: int
    moved_at: str
    gates: tuple[str, ...] = ()
    token: str = ""


NEVER_SET = Move(0, 0, 0, "")


@dataclass(frozen=True)
class Alias:
    """A name for one of a model's versions at a time."""

    registry: Registry
    model: str
    name: str

    def __str__(self) -> str:
        return f"{self.model}@{self.name}"

    def now(self) -> Move:
        """Where it stands; `NEVER_SET` if nowhere."""
        numbers = self._generations()
        newest = numbers[-1] if numbers else 0
        while (later := self._read(newest + 1)) is not None:  # a listing may be of yesterday
            newest = later.generation
        return self._at(newest)

    def version(self) -> Version:
        """The version that it names.

        Raises:
            ModelError: it was never set.
        """
        move = self.now()
        if move == NEVER_SET:
            known = ", ".join(list_aliases(self.registry, self.model)) or "none"
            raise ModelError(
                f"{self.registry.uri}: {self.model} has no alias {self.name!r}; there are: {known}",
                f"bertmill models promote {self.model}@VERSION --to {self.name}",
            )
        return self.registry.version(self.model, move.version)

    def history(self) -> list[Move]:
        """Every move, the oldest first."""
        return [self._at(number) for number in self._generations()]

    def move(self, version: Version, seen: Move, gates: Sequence[str] = ()) -> Move:
        """Name another version, provided that the alias still stands where it was seen.

        Raises:
            CommitConflictError: it was moved meanwhile; nothing changed.
        """
        check_name(self.name, "an alias")
        return self._create(seen, version.number, seen.generation, gates)

    def roll_back(self) -> Move:
        """Name the version again that was named before the present one; once more, the one before that.

        Raises:
            ModelError: there is none.
            CommitConflictError: it was moved meanwhile; nothing changed.
        """
        seen = self.now()
        if seen.before == 0:
            raise ModelError(f"{self}: no version before the present one", "bertmill models show " + str(self))
        target = self._at(seen.before)
        return self._create(seen, target.version, target.before, (f"rollback of {self.model}@{seen.version}",))

    def _create(self, seen: Move, version: int, before: int, gates: Sequence[str]) -> Move:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        move = Move(seen.generation + 1, version, before, now, tuple(gates), uuid.uuid4().hex)
        content, uri = json.dumps(asdict(move), indent=2).encode(), self._uri(move.generation)
        storage = self.registry.storage
        if not storage.create_bytes(uri, content) and storage.read_bytes(uri) != content:
            raise CommitConflictError(
                f"{self}: moved by somebody else to {self.model}@{self.now().version} meanwhile; nothing done",
                f"look at it with `bertmill models show {self}`, then decide again",
            )
        return move

    def _generations(self) -> list[int]:
        found = self.registry.storage.list_objects(join_uri(self.registry.uri, self.model, _ALIASES, self.name))
        names = (item.uri.rsplit("/", 1)[-1].removesuffix(".json") for item in found)
        return sorted(int(name) for name in names if name.isdecimal())

    def _read(self, generation: int) -> Move | None:
        content = self.registry.storage.read_bytes(self._uri(generation))
        if content is None:
            return None
        values = json.loads(content)
        return Move(**{**values, "gates": tuple(values["gates"])})

    def _at(self, generation: int) -> Move:
        return self._read(generation) or NEVER_SET

    def _uri(self, generation: int) -> str:
        return join_uri(self.registry.uri, self.model, _ALIASES, self.name, f"{generation:08d}.json")


def list_aliases(registry: Registry, model: str) -> list[str]:
    """Names of a model's aliases."""
    prefix = join_uri(registry.uri, model, _ALIASES)
    return sorted({item.uri.removeprefix(f"{prefix}/").split("/")[0] for item in registry.storage.list_objects(prefix)})
