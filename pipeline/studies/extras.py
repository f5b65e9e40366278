"""The packages that only studies need."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import InputError

_PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def check_extra(subject: str) -> None:
    """Make sure that the extra `studies` is installed for a subject, such as `a search`.

    Raises:
        InputError: naming what is missing.
    """
    missing = [title for module, title in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{subject} needs {' and '.join(missing)}, not installed here", "pip install 'bertmill[studies]'"
        )
