"""A start of Ray that puts its own handler of SIGTERM in the place of ours, without a Ray."""

from __future__ import annotations

import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest

from jobs.quiet import own_sigterm
from jobs.session import stopping_on_sigterm
from pipeline.errors import InterruptedRunError


class StandIn(ModuleType):
    """What `own_sigterm` touches of Ray."""

    def __init__(self) -> None:
        super().__init__("ray._private")
        self.utils = SimpleNamespace(set_sigterm_handler=lambda handler: signal.signal(signal.SIGTERM, handler))


@pytest.fixture
def utils(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return stand_in.utils


def leave(number: int, _frame: object) -> None:
    raise SystemExit(number)


def test_a_sigterm_while_ray_starts_is_heard_once_it_is_up(utils: SimpleNamespace) -> None:
    done = []

    def start() -> None:
        with own_sigterm():
            utils.set_sigterm_handler(leave)
            signal.raise_signal(signal.SIGTERM)
            done.append("started")

    with pytest.raises(InterruptedRunError, match="SIGTERM"), stopping_on_sigterm():
        start()
    assert done == ["started"]


def test_what_would_abort_a_process_that_still_ends_is_called_off(utils: SimpleNamespace) -> None:
    """The handler in C++, which hears first while Ray connects, gives the process 3 s."""

    def start() -> None:
        with own_sigterm():
            signal.alarm(60)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match="SIGTERM"), stopping_on_sigterm():
        start()
    assert signal.alarm(0) == 0


def test_the_handler_is_ours_again_after_the_start(utils: SimpleNamespace) -> None:
    with stopping_on_sigterm():
        ours = signal.getsignal(signal.SIGTERM)
        with own_sigterm():
            signal.signal(signal.SIGTERM, leave)
        assert signal.getsignal(signal.SIGTERM) is ours
        utils.set_sigterm_handler(leave)
        assert signal.getsignal(signal.SIGTERM) is leave
