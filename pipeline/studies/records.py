"""One JSON record per finished cell, under the fingerprint of all that decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.storage import Storage
from pipeline.uris import join_uri

RecordT = TypeVar("RecordT")


class Cell(Protocol):
    """One piece of a study; small and picklable, for it is sent to a worker."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def run(self, num_threads: int) -> str:
        """Do all of its work and store the record; safe to repeat.

        Returns:
            Its figures in a few words.
        """
        ...


@dataclass(frozen=True)
class RecordStore(Generic[RecordT]):
    """The records of a study.

    Attributes:
        uri: Where they are.
        kind: The dataclass they hold.
        storage: The store.
    """

    uri: str
    kind: type[RecordT]
    storage: Storage

    def read(self, fingerprint: str) -> RecordT | None:
        """The record of a finished cell; None if there is none, or none that this version reads."""
        content = self.storage.read_bytes(self._place(fingerprint))
        if content is None:
            return None
        try:
            return TypeAdapter(self.kind).validate_json(content)
        except ValidationError:
            return None

    def write(self, fingerprint: str, record: RecordT) -> None:
        """Store a record; a reader sees all of it or nothing."""
        assert is_dataclass(record)
        assert not isinstance(record, type)
        self.storage.write_bytes(self._place(fingerprint), json.dumps(asdict(record), indent=2).encode())

    def _place(self, fingerprint: str) -> str:
        return join_uri(self.uri, f"{fingerprint[:32]}.json")


def fingerprint_of(parts: Sequence[Any]) -> str:
    """Hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
