"""Spelling of places: local paths, `file://`, `s3://` and other URLs. Pure functions."""

from __future__ import annotations

import os
import re
import uuid
from urllib.parse import urlsplit

_PASSWORD = re.compile(r"://[^\s/@]*:[^\s/]*@")
_TEMPORARY = re.compile(r"(.*/)?\.[0-9a-f]{32}\.tmp")


def split_uri(uri: str) -> tuple[str, str]:
    """(scheme, path); a local path, relative or `file://`, comes out absolute under `file`."""
    parts = urlsplit(uri)
    if len(parts.scheme) <= 1 or "://" not in uri:
        return "file", os.path.abspath(os.path.expanduser(uri))
    if parts.scheme == "file":
        return "file", os.path.abspath(uri.removeprefix("file://"))
    scheme = "s3" if parts.scheme in ("s3", "s3a") else parts.scheme
    return scheme, uri.split("://", 1)[1].rstrip("/")


def canonical_uri(uri: str) -> str:
    """One spelling per place: absolute local path, or `scheme://path` without a trailing slash."""
    scheme, path = split_uri(uri)
    return path if scheme == "file" else f"{scheme}://{path}"


def hide_password(text: str) -> str:
    """A text in which `scheme://user:password@` is written `scheme://...@`."""
    return _PASSWORD.sub("://...@", text)


def overlaps(left: str, right: str) -> bool:
    """Whether two canonical URIs are the same place, or one lies inside the other."""
    return f"{left}/".startswith(f"{right}/") or f"{right}/".startswith(f"{left}/")


def join_uri(base: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([base.rstrip("/"), *parts])


def name_temporary(path: str) -> str:
    """A new name beside a local path, for a file that is moved there once it is whole."""
    return os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.tmp")


def is_temporary(path: str) -> bool:
    """Whether a file has such a name: somebody writes it, or was killed at it."""
    return _TEMPORARY.fullmatch(path) is not None
