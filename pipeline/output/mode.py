"""Whether a table holds nights or a snapshot: it stays what it was begun as.

A snapshot's first commit would take every earlier night out of the table, and a night's first would stand beside the
snapshot's rows; neither is what a reader expects of one changed word in a spec.
"""

from __future__ import annotations

from deltalake import DeltaTable

from pipeline.errors import OutputTakenError
from pipeline.output.ledger import SNAPSHOT
from pipeline.output.manifests import nights_with_manifests, read_manifests
from pipeline.output.table import holds_snapshot, live_files, open_table
from pipeline.storage import Storage

NIGHTS = "nights"
_MEANING = {
    SNAPSHOT: "a snapshot of its corpus, beside which the night's rows would stand a second time",
    NIGHTS: "nights, which a snapshot would take out of it",
}


def check_mode(uri: str, mode: str, storage: Storage) -> None:
    """Make sure that a table is of the mode that a run is to publish in.

    Raises:
        OutputTakenError: it is of the other.
    """
    table = open_table(uri, storage)
    found = None if table is None else _mode_of(uri, table, storage)
    if found not in (None, mode):
        raise OutputTakenError(
            f"{uri}: `output.mode` is {mode}, and the table holds {_MEANING[found]}",
            f"set `output: {{mode: {found}}}` as before, or write to another `output.uri`",
        )


def _mode_of(uri: str, table: DeltaTable, storage: Storage) -> str | None:
    """As the newest night's manifest says; without any, as the log does; None of a table without files."""
    manifests = [
        found for night in nights_with_manifests(uri, storage)[:1] for found in read_manifests(uri, storage, night)
    ]
    if manifests:
        return SNAPSHOT if manifests[-1].is_snapshot else NIGHTS
    if holds_snapshot(table):
        return SNAPSHOT
    return NIGHTS if live_files(table) else None
