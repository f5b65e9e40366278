"""Packages that only some jobs need, which come with an extra of bertmill's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from pipeline.errors import InputError

STUDIES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def check_extra(wish: str, extra: str, packages: Mapping[str, str]) -> None:
    """Make sure that what an extra brings is installed.

    Args:
        wish: Who needs it, such as `a search needs`.
        extra: The extra's name.
        packages: Module -> the package that it comes with.

    Raises:
        InputError: naming what is missing.
    """
    missing = [title for module, title in packages.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"{wish} {' and '.join(missing)}, not installed here", f"pip install 'bertmill[{extra}]'")
