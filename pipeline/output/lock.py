"""One run of a night at a time: a lease in the table's own storage.

The lease saves work, it guards nothing: two publishers of one night commit the same files whatever happens to it. A
holder writes its lease again while it works; one that has not been written for a while, or whose process was on this
host and is gone, is taken over by creating the next generation, which the store lets exactly one contender do.

    _bertmill/locks/SCOPE/00000001.json
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType

from pipeline.errors import BertmillError, NightTakenError
from pipeline.storage import Storage
from pipeline.uris import join_uri

RENEW_S = 30.0
STALE_S = 300.0


@dataclass(frozen=True)
class Lease:
    """Who is at work on a night.

    Attributes:
        holder: Host, process and run, for people.
        renewed_s: When it last said so, in seconds since 1970 by its own clock.
        is_released: It has ended.
        host: Where the holder runs.
        pid: Its process there.
    """

    holder: str
    renewed_s: float
    is_released: bool = False
    host: str = ""
    pid: int = 0

    def is_free(self, now_s: float) -> bool:
        """Whether the lease may be taken: released, long not renewed, or its process on this very host is gone."""
        is_gone = self.host == socket.gethostname() and not _is_running(self.pid)
        return self.is_released or now_s - self.renewed_s >= STALE_S or is_gone


class NightLock:
    """Held for as long as the block runs.

    Args:
        table_uri: The table.
        scope: What is locked: a night, or the whole table of a snapshot.
        run_id: The run that wants it.
        storage: The table's store.
        clock: Seconds since 1970.

    Raises:
        NightTakenError: another run holds it.
    """

    def __init__(
        self, table_uri: str, scope: str, run_id: str, storage: Storage, clock: Callable[[], float] = time.time
    ) -> None:
        self._root = join_uri(table_uri, "_bertmill", "locks", scope)
        self._scope, self._storage, self._clock = scope, storage, clock
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._holder = f"{self._host} process {self._pid} run {run_id}"
        self._uri = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> NightLock:
        generation, lease = self._newest()
        if lease is not None and not lease.is_free(self._clock()):
            raise self._taken(lease)
        self._uri = self._at(generation + 1)
        if not self._storage.create_bytes(self._uri, _write(self._lease())):
            raise self._taken(self._newest()[1])
        newest, lease = self._newest()
        if newest > generation + 1:  # what was read was old: this generation had been, and been removed
            self._storage.delete(self._uri)
            raise self._taken(lease)
        for old in range(max(1, generation - 1), generation + 1):
            self._storage.delete(self._at(old))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._write_lease(is_released=True)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            self._write_lease(is_released=False)

    def _write_lease(self, is_released: bool) -> None:
        """A lease that cannot be written runs out by itself."""
        try:
            self._storage.write_bytes(self._uri, _write(self._lease(is_released)))
        except BertmillError:
            return

    def _lease(self, is_released: bool = False) -> Lease:
        return Lease(self._holder, self._clock(), is_released, self._host, self._pid)

    def _newest(self) -> tuple[int, Lease | None]:
        names = [item.uri.rsplit("/", 1)[-1].removesuffix(".json") for item in self._storage.list_objects(self._root)]
        generation = max((int(name) for name in names if name.isdigit()), default=0)
        content = self._storage.read_bytes(self._at(generation)) if generation else None
        return generation, Lease(**json.loads(content)) if content else None

    def _at(self, generation: int) -> str:
        return join_uri(self._root, f"{generation:08d}.json")

    def _taken(self, lease: Lease | None) -> NightTakenError:
        holder = lease.holder if lease else "another run"
        return NightTakenError(
            f"{self._scope}: {holder} is at work on it; nothing done here",
            f"if that run is dead, its lease runs out {STALE_S:.0f} s after it was last renewed",
        )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _write(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()
