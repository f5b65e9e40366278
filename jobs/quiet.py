"""What Ray does to the process it starts in, undone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep SIGTERM's handler while Ray starts, and let it hear afterwards of a signal that came meanwhile.

    Ray would put two of its own in its place: one in Python, which leaves without a word and half a Ray behind, and
    one in C++, which aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from ray._private import utils  # nothing public keeps Ray from it

    handler, set_handler, heard = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler, list[int]()
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        signal.signal(signal.SIGTERM, handler)
    if heard:
        signal.alarm(0)  # a handler of C++ may have set one, which aborts the process 3 s after the signal
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drop what Ray's C++ core prints to the process's stderr as it starts; its errors are exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
