"""Which models and runs the rows of a file name, beside what its footer, the night's manifest and done-records say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import MODEL_VERSION_FIELD, MODEL_VERSION_FOOTER, RUN_ID_FIELD, RUN_ID_FOOTER, prefixed

_VERSION, _RUN_ID = MODEL_VERSION_FIELD.name, RUN_ID_FIELD.name
_MAX_SHOWN = 3


@dataclass
class FileOrigin:
    """What one file says of where its rows come from.

    Attributes:
        said_version: Its footer's model versions, as a run joins those of several bundles; empty without any.
        said_runs: Its footer's run ids; those of all its parts in a compacted file.
        versions: Column -> the versions that its rows name.
        run_ids: The runs that its rows name.
    """

    said_version: str
    said_runs: frozenset[str]
    versions: dict[str, set[str]] = field(default_factory=dict)
    run_ids: set[str] = field(default_factory=set)

    def add(self, rows: pa.Table) -> None:
        """Take what some rows name."""
        for column in {_VERSION, *_allowed(self.said_version, rows.column_names)} & {*rows.column_names}:
            self.versions.setdefault(column, set()).update(_values(rows[column]))
        self.run_ids.update(_values(rows[_RUN_ID]))

    def problems(self, name: str, is_quarantine: bool) -> Iterator[str]:
        """Rows that name another model or run than their own file's footer."""
        if self.said_version:
            whole = {_VERSION: {self.said_version}}
            allowed = whole if is_quarantine else _allowed(self.said_version, self.versions)
            for column, found in self.versions.items():
                yield from _strangers(name, column, found, allowed.get(column, ()), "the file's footer")
        if self.said_runs:
            yield from _strangers(name, _RUN_ID, self.run_ids, self.said_runs, "the file's footer")

    def run_problems(self, name: str, recorded: Collection[str]) -> Iterator[str]:
        """Rows that name another run than the done-records of their file."""
        yield from _strangers(name, _RUN_ID, self.run_ids, recorded, "its done-record")


def origin_of(footer: Mapping[bytes, bytes]) -> FileOrigin:
    """The origin that a footer names, without any rows yet."""
    version = footer.get(MODEL_VERSION_FOOTER.encode(), b"").decode()
    runs = footer.get(RUN_ID_FOOTER.encode(), b"").decode()
    return FileOrigin(version, frozenset(runs.split(",")) - {""})


def other_versions(origins: Mapping[str, FileOrigin], said: str, source: str) -> Iterator[str]:
    """Files whose footer names other models than the night's manifest."""
    for name, origin in origins.items():
        if origin.said_version and {*origin.said_version.split(", ")} != {*said.split(", ")}:
            yield f"{name}: its footer names model_version {origin.said_version}, {source} says {said}"


def _allowed(said: str, columns: Collection[str]) -> dict[str, set[str]]:
    """Column -> versions that its rows may name; both of a cascade, whose first bundle has no column of its own."""
    allowed: dict[str, set[str]] = {}
    for part in said.split(", "):
        bundle, _, version = part.rpartition("=")
        own = prefixed(bundle, _VERSION)
        allowed.setdefault(own if own in columns else _VERSION, set()).add(version)
    return allowed


def _values(column: pa.ChunkedArray) -> Sequence[str]:
    return [value or "none" for value in pc.unique(column).to_pylist()]


def _strangers(name: str, column: str, found: set[str], allowed: Collection[str], source: str) -> Iterator[str]:
    if strangers := sorted(found.difference(allowed)):
        shown, said = ", ".join(strangers[:_MAX_SHOWN]), ", ".join(sorted(allowed)) or "none"
        yield f"{name}: holds rows of {column} {shown}; {source} says {said}"
