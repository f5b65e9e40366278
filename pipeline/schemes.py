"""Which kinds of places can be opened: local ones and S3, others through fsspec; tables only where deltalake writes."""

from __future__ import annotations

from typing import Any

import fsspec

from pipeline.errors import InputError, first_line
from pipeline.uris import split_uri

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
_TABLE_SCHEMES = ("file", "s3", "gs", "az", "abfs", "abfss")
_WEB = ("http", "https")


def open_fsspec(scheme: str) -> Any:
    """The fsspec filesystem of a scheme, set up from the environment alone.

    Raises:
        InputError: fsspec has none, its package is not installed, or it cannot be opened without more than a path.
    """
    if scheme in _WEB:
        raise InputError(
            f"{scheme}:// is no store of files; expected a local path, s3://, gs:// or az://", "download it"
        )
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError, TypeError, OSError) as error:
        package = _PACKAGES.get(scheme)
        if package and (isinstance(error, ImportError) or "not known" in str(error)):
            raise InputError(f"{scheme}:// needs {package}, not installed here", f"pip install {package}") from None
        raise InputError(
            f"{scheme}:// cannot be opened: {first_line(error)}",
            "install or set up what that says, or use a local path, s3://, gs:// or az://",
        ) from None


def check_table_place(uri: str) -> None:
    """Refuse places where no Delta table can be.

    Raises:
        InputError: deltalake does not write to such a store.
    """
    if split_uri(uri)[0] not in _TABLE_SCHEMES:
        raise InputError(f"{uri}: tables can only be at local paths, s3://, gs:// and az://", "choose such a place")
