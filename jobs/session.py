"""What every job needs around its work: options, and errors as messages and exit codes."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.errors import BertmillError, InterruptedRunError, Stopped

SpecPath = Annotated[str, typer.Argument(help="the YAML spec", metavar="SPEC", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a field: --set a.b=c", metavar="A.B=C")]
Address = Annotated[str | None, typer.Option(help="Ray cluster; default: $RAY_ADDRESS, else a local one for this job")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Today = Annotated[str | None, typer.Option("--date", help="the night to publish, YYYY-MM-DD; default: today, UTC")]


def tell_version(is_asked: bool) -> None:
    """Print the version and leave."""
    if is_asked:
        print(f"bertmill {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=tell_version, is_eager=True, help="print the version")]


def printable(text: str) -> str:
    """A message without what would steer a terminal: names of files and columns come from others."""
    return "".join(mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)


@contextlib.contextmanager
def guarded(debug: bool) -> Iterator[None]:
    """Turn errors into one clear message on stderr and the error's exit code."""
    try:
        yield
    except BertmillError as error:
        if debug:
            traceback.print_exc()
        print(printable(f"{'error' if error.exit_code else 'note'}: {error}"), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print(
            "interrupted: finished shards and checkpoints are kept; run the same command to go on",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the job as an error does: shards under way are given up, finished ones kept, Ray is stopped."""

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the ending short
        raise Stopped(
            InterruptedRunError("stopped by SIGTERM", "run the same command again: it goes on where it stopped")
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped as stopped:
        raise stopped.error from None
    finally:
        signal.signal(signal.SIGTERM, before)
