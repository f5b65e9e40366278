"""Local files that are there whole or not at all: written under a temporary name, synced, then given their own."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from pipeline.uris import name_temporary


def replace_file(path: str, write: Callable[[str], object]) -> None:
    """Put a file in place of what is there; a reader sees the old one or all of the new.

    Args:
        path: Its folder is made.
        write: Writes a file of the name that it is given.

    Raises:
        OSError: it cannot be written there; NotADirectoryError where a file stands in its folder's place.
    """
    with _written(path, write) as temporary:
        os.replace(temporary, path)


def create_file(path: str, write: Callable[[str], object]) -> bool:
    """Put a file where none is, by `link(2)`: exactly one of many racing writers gets True.

    Args:
        path: Its folder is made.
        write: Writes a file of the name that it is given.

    Raises:
        OSError: as for `replace_file`.
    """
    with _written(path, write) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _written(path: str, write: Callable[[str], object]) -> Iterator[str]:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    temporary = name_temporary(path)
    try:
        write(temporary)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
