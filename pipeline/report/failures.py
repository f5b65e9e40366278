"""Runs that failed, written down beside the reports: nothing else in a table speaks of those that published nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline.errors import BertmillError, FilesSkippedError, NightTakenError, Stopped
from pipeline.output.ledger import Ledger
from pipeline.schema import REPORTS, RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

_FOLDER, _THREADS, _LONGEST = "failures", 16, 2_000
_UNFORESEEN = "not foreseen: the run's own output says more"  # such a text may hold anything, secrets too


@dataclass(frozen=True)
class Failure:
    """One run that failed, perhaps after its commit, as the store failed then.

    Attributes:
        kind: The error's class.
        exit_code: What the command ended with; 75 is gone on with by the same command, 1 is a bug.
        elapsed_s: From the command's start.
        ended_at: ISO 8601, UTC.
    """

    run_date: str
    run_id: str
    kind: str
    exit_code: int
    message: str
    elapsed_s: float
    ended_at: str


@contextlib.contextmanager
def noting_failures(ledger: Ledger, run_id: str, started_s: float) -> Iterator[None]:
    """Write down how the run within fails, where the store still takes it; `started_s` is by the monotonic clock.

    A process that is killed writes nothing: of it a night that was begun and not published is left.
    """
    try:
        yield
    except (NightTakenError, FilesSkippedError):
        raise
    except (Exception, Stopped) as raised:
        error = raised.error if isinstance(raised, Stopped) else raised
        elapsed_s = round(time.monotonic() - started_s, 2)
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        kind, exit_code, message = type(error).__name__, BertmillError.exit_code, _UNFORESEEN
        if isinstance(error, BertmillError):
            exit_code, message = error.exit_code, str(error)[:_LONGEST]
        failure = Failure(ledger.run_date, run_id, kind, exit_code, message, elapsed_s, ended_at)
        with contextlib.suppress(Exception):  # it may be the store itself that failed
            uri = join_uri(_folder(ledger.table_uri, ledger.run_date), f"{run_id}.json")
            ledger.storage.write_bytes(uri, json.dumps(asdict(failure), indent=1).encode())
        raise


def read_failures(table_uri: str, storage: Storage) -> list[Failure]:
    """Every failure that was written down, the oldest first."""
    found = storage.list_objects(join_uri(table_uri, REPORTS, _FOLDER))
    contents = map_threads(lambda item: storage.read_bytes(item.uri), found, _THREADS)
    failures = [Failure(**json.loads(content)) for content in contents if content is not None]
    return sorted(failures, key=lambda failure: (failure.run_date, failure.ended_at))


def _folder(table_uri: str, run_date: str) -> str:
    return join_uri(table_uri, REPORTS, _FOLDER, f"{RUN_DATE}={run_date}")
