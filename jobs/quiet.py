"""What Ray does to the process it starts in, undone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Put SIGTERM's handler back: Ray installs one in C++ that aborts the process before Python hears of it."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


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
