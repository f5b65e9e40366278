"""What every job needs around its work: options, and errors as messages and exit codes."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import typer

from pipeline.errors import BertmillError, StorageUnreachableError, TransientStorageError

SpecPath = Annotated[str, typer.Argument(help="the YAML spec", metavar="SPEC", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a field: --set a.b=c", metavar="A.B=C")]
Address = Annotated[str | None, typer.Option(help="Ray cluster; default: $RAY_ADDRESS, else a local one for this job")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Today = Annotated[str | None, typer.Option("--date", help="the night to publish, YYYY-MM-DD; default: today, UTC")]


@contextlib.contextmanager
def guarded(debug: bool) -> Iterator[None]:
    """Turn errors into one clear message on stderr and the error's exit code."""
    try:
        yield
    except BertmillError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print(
            "interrupted: finished shards and checkpoints are kept; run the same command to go on",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


@contextlib.contextmanager
def preparing() -> Iterator[None]:
    """Around what is checked before anything starts: there, a store that cannot be reached is bad input."""
    try:
        yield
    except TransientStorageError as error:
        raise StorageUnreachableError(error.message, error.remedy) from None
