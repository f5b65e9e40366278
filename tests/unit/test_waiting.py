from __future__ import annotations

import signal
import threading

import pytest

from jobs.session import stopping_on_sigterm
from pipeline.errors import InterruptedRunError, TrainingError
from pipeline.waiting import wait_for


def test_what_the_work_returns_or_raises_comes_back() -> None:
    def fail() -> None:
        raise TrainingError("diverged", "calm down")

    assert wait_for(lambda: 7) == 7
    with pytest.raises(TrainingError, match="diverged"):
        wait_for(fail)


def test_a_signal_is_heard_while_the_work_goes_on() -> None:
    is_over, at_work = threading.Event(), list[threading.Thread]()

    def work() -> None:
        at_work.append(threading.current_thread())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        is_over.wait()

    with pytest.raises(InterruptedRunError, match="SIGTERM"), stopping_on_sigterm():
        wait_for(work)
    assert at_work != [threading.main_thread()], "what waits in C++ hears nothing there"
    assert at_work[0].is_alive()
    is_over.set()
