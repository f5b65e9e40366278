"""One door to every store: local paths, `s3://`, and what else fsspec opens by a path alone.

Bulk Parquet goes through pyarrow's own filesystems (its S3 client is C++ and streams); small objects,
listings with etags and conditional creation go through fsspec (s3fs). Errors come out as three kinds only,
decided here and nowhere else: `StorageDeniedError` (the store refused: permanent), `StorageFullError` (no room) and
`TransientStorageError` (may pass). Both clients try one request three times; `retrying` repeats a whole call.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs as arrow_fs

from pipeline.config import StorageConfig
from pipeline.errors import BertmillError, StorageDeniedError, StorageFullError, TransientStorageError
from pipeline.local_files import create_file, replace_file
from pipeline.schemes import check_table_place, open_fsspec
from pipeline.uris import hide_password, split_uri

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

NUM_ATTEMPTS = 4  # of a whole call
NUM_REQUEST_ATTEMPTS = 3  # of one HTTP request, by the client that makes it
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 60

_DENIED = re.compile(
    r"ACCESS_DENIED|Access ?Denied|INVALID_ACCESS_KEY|InvalidAccessKey|SIGNATURE_DOES_NOT_MATCH|"
    r"SignatureDoesNotMatch|request signature|access key ID you provided|Forbidden|EXPIRED_TOKEN|ExpiredToken|"
    r"InvalidToken|TokenRefreshRequired|RequestTimeTooSkewed|"
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|Permission denied|NoCredentials|Unable to locate credentials",
    re.IGNORECASE,
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|QuotaExceeded", re.IGNORECASE)
# A bare number says nothing ("page of 500 values"): statuses count only where a client or server names them.
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|EndpointConnection|Could not connect|connect timeout|timed? ?out|SlowDown|SLOW_DOWN|"
    r"INTERNAL_FAILURE|InternalError|Internal Server Error|SERVICE_UNAVAILABLE|Service ?Unavailable|Bad Gateway|"
    r"status(?: code)?:? (?:429|50[0234])|\((?:429|50[0234])\) when calling|TooManyRequests|Throttling|"
    r"reset by peer|Connection (?:was )?closed|Connection refused|Broken pipe|IncompleteRead|"
    r"payload is not completed|response body error|error sending request|curlCode|reduce your request rate|"
    r"RequestTimeout|OperationAborted",
    re.IGNORECASE,
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\u21b3")  # deltalake draws the chain of causes for a terminal
_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in a store.

    `etag` changes whenever the content does: the store's own where it has one, else size and mtime.
    `modified_s` is when it was written, in seconds since 1970 by the store's clock; None where the store does not say.
    """

    uri: str
    size_bytes: int
    etag: str
    modified_s: float | None = None


@dataclass(frozen=True)
class Storage:
    """The stores of one spec. Holds names of variables only, never a secret, so it pickles safely."""

    config: StorageConfig = field(default_factory=StorageConfig)

    def open_arrow(self, uri: str) -> tuple[Any, str]:
        """The pyarrow filesystem for a URI, and the path inside it."""
        scheme, path = split_uri(uri)
        if scheme == "file":
            return arrow_fs.LocalFileSystem(), path
        if scheme == "s3":
            return _s3_arrow(self.config), path
        filesystem = _fsspec(scheme, self.config)
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path

    def list_objects(self, uri: str) -> list[StoredObject]:
        """Every object under a URI (or the object itself), sorted by URI; empty if there is nothing."""
        scheme, path = split_uri(uri)
        filesystem = _fsspec(scheme, self.config)

        def find() -> list[StoredObject]:
            filesystem.invalidate_cache()
            found: dict[str, Any] = filesystem.find(path, detail=True)
            return [_stored_object(scheme, found.popitem()[1]) for _ in range(len(found))]  # freed as it is read

        return sorted(retrying(find, f"list {uri}"), key=lambda item: item.uri)

    def list_level(self, uri: str) -> tuple[list[StoredObject], list[str]]:
        """The objects directly under a URI (or the object itself), and the URIs of the folders there."""
        scheme, path = split_uri(uri)
        filesystem = _fsspec(scheme, self.config)

        def look() -> list[dict[str, Any]]:
            filesystem.invalidate_cache()
            try:
                return list(filesystem.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        found, objects, folders = retrying(look, f"list {uri}"), list[StoredObject](), list[str]()
        while found:  # freed as it is read
            item = found.pop()
            stored = _stored_object(scheme, item)
            if item["type"] != "directory":
                objects.append(stored)
            elif stored.uri.rstrip("/") != uri.rstrip("/"):
                folders.append(stored.uri.rstrip("/"))
        return objects, sorted(folders)

    def read_bytes(self, uri: str) -> bytes | None:
        """A small object's content, or None if it does not exist."""
        scheme, path = split_uri(uri)
        filesystem = _fsspec(scheme, self.config)

        def read() -> bytes | None:
            try:
                return bytes(filesystem.cat_file(path))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

        return retrying(read, f"read {uri}")

    def write_bytes(self, uri: str, content: bytes) -> None:
        """Write a small object so that a reader sees the old content or all of the new."""
        scheme, path = split_uri(uri)
        if scheme == "file":
            retrying(lambda: replace_file(path, partial(_write_new, content)), f"write {path}")
            return
        retrying(lambda: _fsspec(scheme, self.config).pipe_file(path, content), f"write {uri}")

    def create_bytes(self, uri: str, content: bytes) -> bool:
        """Write a small object only if none is there: exactly one of many racing writers gets True.

        On S3 this is a PUT with `If-None-Match: *`; locally a synced temporary file and `link(2)`.
        """
        scheme, path = split_uri(uri)
        if scheme == "file":
            return retrying(lambda: create_file(path, partial(_write_new, content)), f"write {path}")
        return retrying(lambda: _create_remote(_fsspec(scheme, self.config), path, content), f"create {uri}")

    def upload(self, source: Path, uri: str) -> None:
        """Copy a local file to a URI; a reader sees all of it or nothing."""
        scheme, path = split_uri(uri)
        if scheme == "file":
            retrying(lambda: replace_file(path, partial(shutil.copyfile, source)), f"write {path}")
            return
        retrying(lambda: _fsspec(scheme, self.config).put_file(str(source), path), f"write {uri}")

    def download(self, uri: str, target: Path) -> None:
        """Copy an object to a local file, which appears when it is whole."""
        scheme, path = split_uri(uri)

        def fetch(temporary: str) -> None:
            retrying(lambda: _fsspec(scheme, self.config).get_file(path, temporary), f"read {uri}")

        retrying(lambda: replace_file(str(target), fetch), f"write {target}")

    def delete(self, uri: str) -> None:
        """Remove one object; removing what is not there is no error."""
        scheme, path = split_uri(uri)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _fsspec(scheme, self.config).rm_file(path)

        retrying(remove, f"delete {uri}")

    def delta_options(self, uri: str) -> dict[str, str]:
        """`storage_options` for deltalake, read from the environment at the moment of use.

        Raises:
            InputError: no Delta table can be at such a place.
        """
        check_table_place(uri)
        if split_uri(uri)[0] != "s3":
            return {}
        resolved = _resolve_s3(self.config)
        options = {
            "AWS_REGION": resolved.region,
            "AWS_ENDPOINT_URL": resolved.endpoint_url or "",
            "AWS_ALLOW_HTTP": "true" if (resolved.endpoint_url or "").startswith("http://") else "",
            "AWS_ACCESS_KEY_ID": resolved.access_key or "",
            "AWS_SECRET_ACCESS_KEY": resolved.secret_key or "",
            "AWS_SESSION_TOKEN": resolved.session_token or "",
            "AWS_SKIP_SIGNATURE": "true" if self.config.anonymous else "",
            "timeout": f"{READ_TIMEOUT_S}s",
            "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        }
        return {key: value for key, value in options.items() if value}


def map_threads(
    call: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int, at_once: int = 4096
) -> Iterator[ResultT]:
    """Results in order, as `Executor.map` gives them, without a future for each of millions of items at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        while batch := list(islice(remaining, at_once)):
            yield from pool.map(call, batch)


def retrying(call: Callable[[], ResultT], what: str) -> ResultT:
    """Run one storage call; transient failures are tried again with jittered backoff.

    Raises:
        StorageDeniedError: the store refused; never retried.
        TransientStorageError: still failing after the last attempt.
    """
    for attempt in range(NUM_ATTEMPTS):
        try:
            return call()
        except BertmillError:
            raise
        except Exception as error:
            failure = classify_error(error, what)
            if failure is None:
                raise
            if not isinstance(failure, TransientStorageError) or attempt == NUM_ATTEMPTS - 1:
                raise failure from None
        time.sleep(0.2 * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable: the last attempt returns or raises")


def classify_error(error: Exception, what: str) -> BertmillError | None:
    """What a library's error means to us; None if it is not about the store at all."""
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
    if isinstance(error, pa.ArrowInvalid) or (missing and "bucket does not exist" not in str(error)):
        return None
    text = _COLOURS.sub("", f"{type(error).__name__}: {error}")
    shown = hide_password(" ".join(text.split()))[:400]  # an endpoint that the environment names
    # s3fs turns S3's code into an errno and keeps it only in the cause. Names say nothing about why it failed.
    text = _NAMES.sub(" ", f"{text}; {error.__cause__}")
    if isinstance(error, PermissionError) or _DENIED.search(text):
        return StorageDeniedError(
            f"cannot {what}: {shown}",
            "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the spec's storage block), "
            "the bucket's name and its permissions",
        )
    if _FULL.search(text):
        return StorageFullError(f"cannot {what}: {shown}", "make room there, then run the same command again")
    if isinstance(error, (ConnectionError, TimeoutError)) or _TRANSIENT.search(text):
        return TransientStorageError(
            f"cannot {what}: {shown}",
            "the store could not be reached or kept failing: check the endpoint (AWS_ENDPOINT_URL or "
            "storage.endpoint_url) and the network, then run the same command again",
        )
    return None


@dataclass(frozen=True)
class _S3Settings:
    endpoint_url: str | None
    region: str
    access_key: str | None
    secret_key: str | None
    session_token: str | None

    def __repr__(self) -> str:
        return f"_S3Settings(endpoint_url={self.endpoint_url!r}, region={self.region!r})"


def _resolve_s3(config: StorageConfig) -> _S3Settings:
    environment = os.environ
    return _S3Settings(
        config.endpoint_url or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
        config.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
        environment.get(config.access_key_env or "AWS_ACCESS_KEY_ID"),
        environment.get(config.secret_key_env or "AWS_SECRET_ACCESS_KEY"),
        environment.get(config.session_token_env or "AWS_SESSION_TOKEN"),
    )


def _s3_arrow(config: StorageConfig) -> Any:
    return _s3_arrow_for(_resolve_s3(config), config.anonymous)


@lru_cache(maxsize=8)
def _s3_arrow_for(settings: _S3Settings, anonymous: bool) -> Any:
    explicit = settings.access_key and settings.secret_key and not anonymous
    return arrow_fs.S3FileSystem(
        access_key=settings.access_key if explicit else None,
        secret_key=settings.secret_key if explicit else None,
        session_token=settings.session_token if explicit else None,
        anonymous=anonymous,
        region=settings.region,
        endpoint_override=settings.endpoint_url,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=NUM_REQUEST_ATTEMPTS),
    )


def _fsspec(scheme: str, config: StorageConfig) -> Any:
    if scheme == "s3":
        return _s3_fsspec_for(_resolve_s3(config), config.anonymous, os.getpid())
    return open_fsspec(scheme)


@lru_cache(maxsize=8)
def _s3_fsspec_for(settings: _S3Settings, anonymous: bool, process_id: int) -> Any:
    # keyed by process: s3fs keeps an event loop, which does not survive a fork
    filesystem = fsspec.filesystem(
        "s3",
        key=settings.access_key,
        secret=settings.secret_key,
        token=settings.session_token,
        anon=anonymous,
        endpoint_url=settings.endpoint_url,
        client_kwargs={"region_name": settings.region},
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": NUM_REQUEST_ATTEMPTS, "mode": "standard"},
        },
        use_listings_cache=False,
    )
    filesystem.retries = 1  # s3fs would try five times around botocore's own attempts
    return filesystem


def _stored_object(scheme: str, info: dict[str, Any]) -> StoredObject:
    name = str(info["name"])
    uri = name if scheme == "file" else f"{scheme}://{name.removeprefix(f'{scheme}://')}"
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    modified = info.get("mtime") or info.get("LastModified") or info.get("created")
    if etag is None:
        etag = f"{info['size']}-{modified}"
    return StoredObject(uri, int(info["size"] or 0), str(etag).strip('"'), _unix_seconds(modified))


def _unix_seconds(moment: Any) -> float | None:
    """A store's time of writing, whatever its type; None where it cannot be told."""
    if isinstance(moment, datetime):
        return moment.timestamp()
    return float(moment) if isinstance(moment, int | float) else None


def _create_remote(filesystem: Any, path: str, content: bytes) -> bool:
    try:
        filesystem.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if "pre-condition" in str(error) or "PreconditionFailed" in str(error):
            return False
        raise
    return True


def _write_new(content: bytes, path: str) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
