"""A lease for each night: one holder, renewed while it works, taken over by exactly one once it is stale."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import NightTakenError, OtherNightTakenError, TransientStorageError
from pipeline.output import lock
from pipeline.output.ledger import Ledger
from pipeline.output.lock import STALE_S, NightLock, _Leases, free_generation
from pipeline.storage import Storage

STORAGE = Storage()
NIGHT, NEXT = "2026-11-23", "2026-11-24"
SCOPE = f"run_date={NIGHT}"


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def open_lock(table: Path, clock: Clock, run_id: str = "run-1") -> NightLock:
    return NightLock(Ledger(str(table), NIGHT, "", STORAGE), run_id, clock, patience_s=0.0)


def open_snapshot(table: Path, clock: Clock, run_id: str, night: str) -> NightLock:
    return NightLock(Ledger(str(table), night, "", STORAGE, is_snapshot=True), run_id, clock, patience_s=0.0)


def leases(table: Path, scope: str = SCOPE) -> dict[int, dict[str, Any]]:
    paths = sorted((table / "_bertmill" / "locks" / scope).glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in paths}


def test_a_second_holder_is_refused_and_told_who_is_at_work(tmp_path: Path, clock: Clock) -> None:
    with open_lock(tmp_path, clock), pytest.raises(NightTakenError, match=r"process \d+ run run-1 is at work"):
        open_lock(tmp_path, clock, "run-2").__enter__()
    assert NightTakenError.exit_code == 0


def test_a_released_lease_is_free_at_once(tmp_path: Path, clock: Clock) -> None:
    for run_id in ("run-1", "run-2", "run-3"):
        with open_lock(tmp_path, clock, run_id):
            pass
    found = leases(tmp_path)
    assert all(lease["is_released"] for lease in found.values())
    assert max(found) == 3
    assert len(found) == 1, "old generations are removed"


def test_a_lease_is_released_by_an_error_too(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(ValueError, match="broken"), open_lock(tmp_path, clock):
        raise ValueError("broken")
    with open_lock(tmp_path, clock, "run-2"):
        assert max(leases(tmp_path)) == 2


def test_other_nights_are_other_leases(tmp_path: Path, clock: Clock) -> None:
    with open_lock(tmp_path, clock), open_snapshot(tmp_path, clock, "run-2", NIGHT):
        assert not leases(tmp_path)[1]["is_released"]
        assert not leases(tmp_path, "snapshot")[1]["is_released"]


def test_a_snapshot_held_for_another_night_is_to_be_asked_for_again(tmp_path: Path, clock: Clock) -> None:
    with open_snapshot(tmp_path, clock, "run-1", NIGHT):
        with pytest.raises(OtherNightTakenError, match=f"at work on night {NIGHT}; nothing done for {NEXT}") as raised:
            open_snapshot(tmp_path, clock, "run-2", NEXT).__enter__()
        with pytest.raises(NightTakenError, match="at work on it") as same:
            open_snapshot(tmp_path, clock, "run-3", NIGHT).__enter__()
    assert (raised.value.exit_code, same.value.exit_code) == (75, 0)
    assert "run the same command again" in raised.value.remedy


def test_a_lease_that_does_not_tell_its_night_is_read(tmp_path: Path, clock: Clock) -> None:
    untold = {"holder": "an older one", "renewed_s": clock(), "is_released": False, "host": "elsewhere", "pid": 1}
    uri = tmp_path / "_bertmill" / "locks" / SCOPE / "00000001.json"
    STORAGE.write_bytes(str(uri), json.dumps(untold).encode())
    with pytest.raises(NightTakenError, match="an older one is at work on it"):
        open_lock(tmp_path, clock).__enter__()


def test_a_lease_is_held_until_it_is_stale(tmp_path: Path, clock: Clock) -> None:
    leave_behind(tmp_path, clock)
    clock.now_s += STALE_S - 1
    with pytest.raises(NightTakenError, match="at work on it"):
        open_lock(tmp_path, clock, "run-2").__enter__()
    clock.now_s += 1
    with open_lock(tmp_path, clock, "run-2"):
        assert "run-2" in leases(tmp_path)[2]["holder"]


def test_exactly_one_of_many_takes_a_stale_lease(tmp_path: Path, clock: Clock) -> None:
    leave_behind(tmp_path, clock)
    clock.now_s += STALE_S
    for generation in range(2, 5):
        won = race(tmp_path, clock, 8)
        assert won == 1
        assert max(leases(tmp_path)) == generation
        clock.now_s += STALE_S


def leave_behind(table: Path, clock: Clock, host: str = "", pid: int = 0) -> None:
    """The lease of a holder that was killed: neither renewed nor released."""
    uri = table / "_bertmill" / "locks" / SCOPE / "00000001.json"
    STORAGE.write_bytes(str(uri), lock._write(lock.Lease("a dead one", clock(), False, host, pid)))


def race(table: Path, clock: Clock, num_threads: int) -> int:
    """How many of many contenders get the lease, which all who get it then leave behind."""
    start = threading.Barrier(num_threads)

    def contend(index: int) -> bool:
        contender = open_lock(table, clock, f"run-{index}")
        start.wait()
        try:
            contender.__enter__()
        except NightTakenError:
            return False
        contender._stop.set()
        return True

    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(contend, range(num_threads)))


def test_one_who_read_an_old_generation_gives_way(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw generation 1; since then 2 was held and released, and 3 is held, so that 2 no longer stands."""
    leave_behind(tmp_path, clock)
    clock.now_s += STALE_S
    late = open_lock(tmp_path, clock, "late")
    seen = late._leases.newest()
    with open_lock(tmp_path, clock, "run-2"):
        pass
    with open_lock(tmp_path, clock, "run-3"):
        answers, newest = iter([seen]), _Leases.newest
        monkeypatch.setattr(_Leases, "newest", lambda leases: next(answers, None) or newest(leases))
        with pytest.raises(NightTakenError, match="run run-3 is at work"):
            late.__enter__()
        assert list(leases(tmp_path)) == [3]


def test_a_lease_is_renewed_while_its_holder_works(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, renewed = open_lock(tmp_path, clock), threading.Event()
    write = held._write_lease
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 1 and renewed.wait(10) and held._stop.is_set()

    def write_lease(is_released: bool) -> None:
        write(is_released)
        renewed.set()

    monkeypatch.setattr(held._stop, "wait", wait)
    monkeypatch.setattr(held, "_write_lease", write_lease)
    clock.now_s += STALE_S - 1
    with held:
        assert renewed.wait(10)
        clock.now_s += STALE_S - 1
        held._stop.set()
        held._thread.join()
    assert waits[0] == lock.RENEW_S
    assert leases(tmp_path)[1]["renewed_s"] == clock.now_s
    assert leases(tmp_path)[1]["is_released"]


def test_a_lease_that_cannot_be_written_does_not_stop_the_work(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise TransientStorageError("the store is away")

    with open_lock(tmp_path, clock):
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write_bytes", fail)
            open_lock(tmp_path, clock)._write_lease(is_released=False)
        assert not leases(tmp_path)[1]["is_released"]


def test_a_lease_removed_while_it_is_read_counts_as_taken(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removed it has created the next one."""
    late = open_lock(tmp_path, clock, "late")
    with open_lock(tmp_path, clock):
        monkeypatch.setattr(_Leases, "newest", lambda _leases: (0, None))
        with pytest.raises(NightTakenError, match="another run is at work"):
            late.__enter__()


def test_a_lease_of_a_process_that_is_gone_is_free_at_once(tmp_path: Path, clock: Clock) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave_behind(tmp_path, clock, host=socket.gethostname(), pid=gone.pid)
    with open_lock(tmp_path, clock, "run-2"):
        assert "run-2" in leases(tmp_path)[2]["holder"]


def test_a_lease_of_another_host_counts_whatever_runs_here(tmp_path: Path, clock: Clock) -> None:
    leave_behind(tmp_path, clock, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(NightTakenError, match="a dead one is at work"):
        open_lock(tmp_path, clock, "run-2").__enter__()


def test_a_lease_is_watched_until_it_is_renewed(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_behind(tmp_path, clock)
    watched: list[float] = []

    def sleep(seconds: float) -> None:
        watched.append(seconds)
        clock.now_s += seconds
        if len(watched) == 3:
            leave_behind(tmp_path, clock)

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(NightTakenError, match="at work"):
        NightLock(Ledger(str(tmp_path), NIGHT, "", STORAGE), "run-2", clock).__enter__()
    assert watched == [lock.POLL_S] * 3


def test_a_lease_is_watched_until_it_runs_out(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_behind(tmp_path, clock)

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    monkeypatch.setattr(lock.time, "sleep", sleep)
    left_s = clock.now_s
    with NightLock(Ledger(str(tmp_path), NIGHT, "", STORAGE), "run-2", clock):
        assert clock.now_s - left_s == STALE_S


def test_a_lock_tells_which_lease_it_followed(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger(str(tmp_path), NIGHT, "", STORAGE)
    assert free_generation(ledger, clock) == 0
    with open_lock(tmp_path, clock) as first:
        assert (first.followed, free_generation(ledger, clock)) == (0, None)
    assert free_generation(ledger, clock) == 1
    with open_lock(tmp_path, clock, "run-2") as second:
        assert second.followed == 1


def test_a_lease_that_ran_out_and_was_taken_over_is_not_held(tmp_path: Path, clock: Clock) -> None:
    with open_lock(tmp_path, clock) as slept:
        slept.check_held()
        clock.now_s += STALE_S
        slept.check_held()
        with open_lock(tmp_path, clock, "run-2"), pytest.raises(NightTakenError, match="run run-2 is at work on it"):
            slept.check_held()
