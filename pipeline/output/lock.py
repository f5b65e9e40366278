"""One run of a night at a time: a lease in the table's own storage.

The lease saves work, it guards nothing: two publishers of one night commit the same files whatever happens to it. A
holder writes its lease again while it works; one that has not been written for a while is taken over by creating the
next generation, which the store lets exactly one contender do. A contender watches the lease until it is renewed (the
holder lives: nothing is left to do here) or has run out (it was killed: the work goes on here), so that a night whose
run was killed is never taken for one that is being done.

    _bertmill/locks/SCOPE/00000001.json
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from pipeline.errors import BertmillError, NightTakenError, OtherNightTakenError
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage
from pipeline.uris import join_uri

RENEW_S = 15.0
STALE_S = 60.0
POLL_S = 2.0


@dataclass(frozen=True)
class Lease:
    """Who is at work on a night.

    Attributes:
        holder: Host, process and run.
        renewed_s: When it last said so, in seconds since 1970 by its own clock.
        is_released: It has ended.
        host: Where it runs.
        pid: As which process.
        run_date: Its night; empty in leases that do not tell it.
    """

    holder: str
    renewed_s: float
    is_released: bool = False
    host: str = ""
    pid: int = 0
    run_date: str = ""

    def is_over(self, now_s: float) -> bool:
        """Whether nobody holds it any more: released, run out, or of a process that is gone."""
        return self.is_released or self.is_of_the_dead or now_s - self.renewed_s >= STALE_S

    @property
    def is_of_the_dead(self) -> bool:
        """Whether the holder ran on this host and its process is gone."""
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class NightLock:
    """Held for as long as the block runs.

    Args:
        ledger: Of what is locked: a night, or the whole table of a snapshot.
        run_id: The run that wants it.
        clock: Seconds since 1970.
        patience_s: How long a lease is watched that is neither renewed nor stale.

    Attributes:
        followed: The number of the lease before, once it is held; see `free_generation`.

    Raises:
        NightTakenError: another run holds it.
        OtherNightTakenError: it does so for another night of the snapshot.
    """

    def __init__(
        self, ledger: Ledger, run_id: str, clock: Callable[[], float] = time.time, patience_s: float = STALE_S
    ) -> None:
        self._leases = _leases(ledger)
        self._scope, self._run_date, self._storage, self._clock = ledger.scope, ledger.run_date, ledger.storage, clock
        self._patience_s = patience_s
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._holder = f"{self._host} process {self._pid} run {run_id}"
        self._uri = ""
        self.followed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> NightLock:
        self.followed = generation = self._wait_until_free()
        self._uri = self._leases.at(generation + 1)
        own = _write(self._lease())
        if not self._storage.create_bytes(self._uri, own) and self._storage.read_bytes(self._uri) != own:
            raise self._taken(
                self._leases.newest()[1]
            )  # one's own lease is found where the answer to its creation was lost
        newest, lease = self._leases.newest()
        if newest > generation + 1:  # what was read was old: this generation had been, and been removed
            self._storage.delete(self._uri)
            raise self._taken(lease)
        for old in range(max(1, generation - 1), generation + 1):
            self._storage.delete(self._leases.at(old))
        self._thread.start()
        return self

    def check_held(self) -> None:
        """To be asked before a night is published.

        Raises:
            NightTakenError: this lease had run out, and another run took the night over.
        """
        generation, lease = self._leases.newest()
        if self._leases.at(generation) != self._uri:
            raise self._taken(lease)

    def _wait_until_free(self) -> int:
        """The generation to follow: the newest one, released, stale, or of a process that is gone."""
        first = generation, lease = self._leases.newest()
        watched_s = 0.0
        while lease is not None and not lease.is_over(self._clock()):
            if (generation, lease) != first or watched_s >= self._patience_s:
                raise self._taken(lease)
            time.sleep(POLL_S)
            watched_s += POLL_S
            generation, lease = self._leases.newest()
        return generation

    def _lease(self) -> Lease:
        return Lease(self._holder, self._clock(), host=self._host, pid=self._pid, run_date=self._run_date)

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
        lease = replace(self._lease(), is_released=is_released)
        try:
            self._storage.write_bytes(self._uri, _write(lease))
        except BertmillError:
            return

    def _taken(self, lease: Lease | None) -> NightTakenError:
        holder = lease.holder if lease else "another run"
        if lease and lease.run_date not in ("", self._run_date):
            return OtherNightTakenError(
                f"{self._scope}: {holder} is at work on night {lease.run_date}; nothing done for {self._run_date}",
                "run the same command again when that night is done",
            )
        return NightTakenError(
            f"{self._scope}: {holder} is at work on it; nothing done here",
            "if that run does not end, stop it and run the same command again",
        )


@dataclass(frozen=True)
class _Leases:
    """Those of one night, by number."""

    root: str
    storage: Storage

    def newest(self) -> tuple[int, Lease | None]:
        names = [item.uri.rsplit("/", 1)[-1].removesuffix(".json") for item in self.storage.list_objects(self.root)]
        generation = max((int(name) for name in names if name.isdigit()), default=0)
        content = self.storage.read_bytes(self.at(generation)) if generation else None
        while (later := self.storage.read_bytes(self.at(generation + 1))) is not None:  # a listing may be of yesterday
            generation, content = generation + 1, later
        return generation, Lease(**json.loads(content)) if content else None

    def at(self, generation: int) -> str:
        return join_uri(self.root, f"{generation:08d}.json")


def _leases(ledger: Ledger) -> _Leases:
    return _Leases(join_uri(ledger.table_uri, "_bertmill", "locks", ledger.scope), ledger.storage)


def free_generation(ledger: Ledger, clock: Callable[[], float] = time.time) -> int | None:
    """The number of the newest lease (0 before the first), to be asked before a night is planned; None if it is held.

    A lock that `followed` another one than this was taken after some other run's work: the plan may be older than that.
    """
    generation, lease = _leases(ledger).newest()
    return generation if lease is None or lease.is_over(clock()) else None


def _write(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()
