"""Waiting for Ray with an ear for signals: its calls wait in C++, where a handler that raises is not heard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

ResultT = TypeVar("ResultT")
_LISTEN_EVERY_S = 0.2


def wait_for(work: Callable[[], ResultT]) -> ResultT:
    """Run what may wait for long in a thread of its own, while this one hears signals.

    What a signal's handler raises leaves the work to itself: it ends with Ray, or with the process.

    Returns:
        What the work returns; what it raises is raised here.
    """
    outcome: Future[ResultT] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LISTEN_EVERY_S)  # not for ever: a signal may reach another thread first
    return outcome.result()
