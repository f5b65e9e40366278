"""What was found in a night, where readers find it: written under a name of its own, then switched to by one object.

    run_date=2026-11-23/CONTENT/NAME           the files of one content, each complete
    _current/run_date=2026-11-23.json          {content_id, files: NAME -> URI, facts}: written last, in one PUT

A content's name is a hash of the night's files and of what was asked: asked again, there is nothing to do. What was
replaced goes when its successor has stood for some time, so that a query can end on it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import CorpusError, OutputTakenError
from pipeline.output.nights import StandingNight
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import join_uri

_CURRENT = "_current"


@dataclass(frozen=True)
class Found:
    """A night's current result.

    Attributes:
        kind: Which job made it.
        table: URI of the table that it is of.
        table_id: Delta's own id of it.
        version: The table's version that was read.
        content_id: Names what it was made from.
        files: Name -> URI of each file.
        facts: What was asked, and what was found, in numbers.
    """

    kind: str
    table: str
    table_id: str
    version: int
    content_id: str
    files: Mapping[str, str]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class ResultPlace:
    """Where results of one kind and one night go.

    Attributes:
        output: The URI that the job was given.
        kind: The job's name; one output holds results of one kind, of one table.
        night: The night as the table shows it.
        asked: What the result depends on beside the night, as JSON values.
        storage: The store.
    """

    output: str
    kind: str
    night: StandingNight
    asked: Mapping[str, Any]
    storage: Storage

    @property
    def content_id(self) -> str:
        """16 hexadecimal digits that name the night's rows and what was asked."""
        facts = [self.kind, self.night.table_id, self.night.names, dict(self.asked)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def current_uri(self) -> str:
        """The one object that says which files are the night's."""
        return current_uri(self.output, self.night.run_date)

    def uri(self, name: str) -> str:
        """Where a file of this content goes."""
        return join_uri(self.output, f"{RUN_DATE}={self.night.run_date}", self.content_id, name)

    def standing(self) -> Found | None:
        """The result, if it is current already.

        Raises:
            OutputTakenError: the output holds something else.
        """
        self._check_free()
        content = self.storage.read_bytes(self.current_uri)
        found = None if content is None else _parse(content, self.current_uri)
        return found if found is not None and found.content_id == self.content_id else None

    def switch(self, names: Sequence[str], found: Mapping[str, Any]) -> Found:
        """Make the files that were written the night's; `found` is added to what was asked."""
        files = {name: self.uri(name) for name in names}
        night = self.night
        facts = {**self.asked, **found}
        current = Found(self.kind, night.table, night.table_id, night.version, self.content_id, files, facts)
        self.storage.write_bytes(self.current_uri, json.dumps(asdict(current), indent=2).encode())
        return current

    def remove_replaced(self, keep_s: float) -> list[str]:
        """Delete the night's files that are not current, and were not written to nor shown for `keep_s` seconds."""
        (shown,) = self.storage.list_objects(self.current_uri)
        folder = join_uri(self.output, f"{RUN_DATE}={self.night.run_date}")
        own = join_uri(folder, self.content_id)
        others = [item for item in self.storage.list_objects(folder) if not item.uri.startswith(f"{own}/")]
        latest_s = max(item.modified_s or 0.0 for item in (shown, *others))
        if not others or time.time() - latest_s < keep_s:
            return []
        for item in others:
            self.storage.delete(item.uri)
        return [item.uri for item in others]

    def _check_free(self) -> None:
        there = [item.uri for item in self.storage.list_objects(self.output)]
        current = [uri for uri in there if uri.startswith(join_uri(self.output, _CURRENT, f"{RUN_DATE}="))]
        own = f"{join_uri(self.output, RUN_DATE)}="
        strange = [uri for uri in there if uri not in current and not uri.startswith(own)]
        if strange:
            raise OutputTakenError(
                f"{self.output}: already holds something that is no result (first: {strange[0]})",
                "choose another output, or empty this one",
            )
        content = self.storage.read_bytes(current[-1]) if current else None
        if content is None:
            return
        found = _parse(content, current[-1])
        if (found.kind, found.table_id) != (self.kind, self.night.table_id):
            raise OutputTakenError(
                f"{self.output}: holds {found.kind} of {found.table}",
                "choose another output: one place holds one kind of result, of one table",
            )


def _parse(content: bytes, uri: str) -> Found:
    """What an object says is current.

    Raises:
        CorpusError: it is not what these jobs write.
    """
    try:
        return Found(**json.loads(content))
    except (ValueError, TypeError):
        raise CorpusError(f"{uri}: says in no known way what is current", "delete it, and run the job again") from None


def current_uri(output: str, run_date: str) -> str:
    """The object that says what is current of a night."""
    return join_uri(output, _CURRENT, f"{RUN_DATE}={run_date}.json")


def read_current(output: str, run_date: str, kind: str, storage: Storage) -> Found:
    """A night's current result.

    Raises:
        CorpusError: there is none of this kind.
    """
    uri = current_uri(output, run_date)
    content = storage.read_bytes(uri)
    found = None if content is None else _parse(content, uri)
    if found is None or found.kind != kind:
        raise CorpusError(
            f"{output}: no {kind} of night {run_date}", f"`bertmill {kind}` makes one; check the URI and the date"
        )
    return found
