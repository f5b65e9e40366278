from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest

from pipeline.config import StorageConfig
from pipeline.errors import CorpusError, StorageDeniedError, StorageFullError, TransientStorageError
from pipeline.storage import NUM_ATTEMPTS, Storage, classify_error, retrying

STORAGE = Storage()


def failing(errors: list[Exception]) -> Callable[[], str]:
    """A call that raises the errors one after the other, then returns `done`."""

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return call


def caused(error: Exception, cause: str) -> Exception:
    """An error as s3fs raises it: an errno and S3's message; S3's code stands in the cause only."""
    error.__cause__ = RuntimeError(cause)
    return error


def test_listing_is_sorted_and_reaches_below(tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/1/x", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    found = STORAGE.list_objects(str(tmp_path))
    assert [item.uri for item in found] == [f"{tmp_path}/{name}" for name in (".hidden", "a", "b/1/x", "b/2")]
    assert {item.size_bytes for item in found} == {5}


def test_listing_a_file_gives_the_file_and_nothing_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert [item.uri for item in STORAGE.list_objects(str(tmp_path / "a"))] == [f"{tmp_path}/a"]
    assert STORAGE.list_objects(str(tmp_path / "b")) == []


def test_the_etag_follows_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123")
    os.utime(path, (1, 1))
    (first,) = STORAGE.list_objects(str(path))
    (same,) = STORAGE.list_objects(str(path))
    os.utime(path, (1, 2))
    (touched,) = STORAGE.list_objects(str(path))
    path.write_bytes(b"1234")
    os.utime(path, (1, 1))
    (longer,) = STORAGE.list_objects(str(path))
    assert first == same
    assert len({first.etag, touched.etag, longer.etag}) == 3
    assert (first.modified_s, touched.modified_s) == (1.0, 2.0)


def test_small_objects_are_written_read_and_deleted(tmp_path: Path) -> None:
    uri = f"{tmp_path}/deep/er/a.json"
    assert STORAGE.read_bytes(uri) is None
    STORAGE.write_bytes(uri, b"one")
    STORAGE.write_bytes(uri, b"two")
    assert STORAGE.read_bytes(uri) == b"two"
    STORAGE.delete(uri)
    STORAGE.delete(uri)
    assert STORAGE.read_bytes(uri) is None


def test_a_write_that_fails_leaves_the_old_content_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{tmp_path}/a.json"
    STORAGE.write_bytes(uri, b"old")

    def full(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        STORAGE.write_bytes(uri, b"new")
    with pytest.raises(OSError, match="disk full"):
        STORAGE.create_bytes(f"{tmp_path}/b.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]


def test_exactly_one_of_many_racing_creators_wins(tmp_path: Path) -> None:
    num_threads, uri = 16, f"{tmp_path}/ledger/record.json"
    barrier = Barrier(num_threads)

    def create(number: int) -> bool:
        barrier.wait(timeout=30)
        return STORAGE.create_bytes(uri, f"writer {number}".encode())

    with ThreadPoolExecutor(num_threads) as pool:
        won = list(pool.map(create, range(num_threads)))
    assert won.count(True) == 1
    assert STORAGE.read_bytes(uri) == f"writer {won.index(True)}".encode()
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["record.json"]


def test_creating_over_something_changes_nothing(tmp_path: Path) -> None:
    STORAGE.write_bytes(f"{tmp_path}/a", b"old")
    assert STORAGE.create_bytes(f"{tmp_path}/a", b"new") is False
    assert STORAGE.read_bytes(f"{tmp_path}/a") == b"old"


def test_files_travel_both_ways(tmp_path: Path) -> None:
    source, uri, target = tmp_path / "source", f"{tmp_path}/store/a.bin", tmp_path / "cache" / "a.bin"
    source.write_bytes(bytes(range(256)))
    STORAGE.upload(source, uri)
    STORAGE.download(uri, target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a.bin"]


def test_a_download_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        STORAGE.download(f"{tmp_path}/nothing", tmp_path / "cache" / "a.bin")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("When reading information for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject: No"),
        OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation: Forbidden"),
        PermissionError("Access Denied"),
        PermissionError("The AWS Access Key Id you provided does not exist in our records. (InvalidAccessKeyId)"),
        OSError("The request signature we calculated does not match the signature you provided."),
        OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: The specified bucket does not exist"),
        OSError("ExpiredToken: The provided token has expired"),
        RuntimeError("NoCredentialsError: Unable to locate credentials"),
        caused(OSError(22, "The provided token is malformed"), "An error occurred (InvalidToken) when calling it"),
    ],
)
def test_a_store_that_refused_is_never_transient(error: Exception) -> None:
    failure = classify_error(error, "read s3://b/a")
    assert isinstance(failure, StorageDeniedError)
    assert failure.message.startswith("cannot read s3://b/a: ")
    assert "credentials" in failure.remedy


@pytest.mark.parametrize(
    "error",
    [
        OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server"),
        OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."),
        OSError("An error occurred (SlowDown) when calling the PutObject operation"),
        OSError("AWS Error UNKNOWN (HTTP status 500) during PutObject: InternalError"),
        OSError("An error occurred (503) when calling the HeadObject operation: Service Unavailable"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError("timed out"),
        OSError("Read timeout on endpoint URL"),
        RuntimeError('EndpointConnectionError: Could not connect to the endpoint URL: "http://127.0.0.1:1/"'),
        RuntimeError("ClientPayloadError: Response payload is not completed: <ContentLengthError: 400>"),
        caused(OSError(121, "We encountered an internal error."), "An error occurred (InternalError) when calling it"),
        caused(OSError(16, "Unknown"), "An error occurred (503) when calling the HeadObject operation"),
        OSError("Kernel error -> Generic S3 error\n  \x1b[31m\u21b3\x1b[0m error sending request\n connection error"),
        OSError("Generic S3 error\n  Server returned non-2xx status code\n  \x1b[31m\u21b3\x1b[0m 502 Bad Gateway"),
    ],
)
def test_what_may_pass_is_transient(error: Exception) -> None:
    failure = classify_error(error, "write s3://b/a")
    assert isinstance(failure, TransientStorageError)
    assert failure.message.startswith("cannot write s3://b/a: ")
    assert "AWS_ENDPOINT_URL" in failure.remedy


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/data/part-0.parquet"),
        pa.ArrowInvalid("Parquet magic bytes not found in footer. Either the file is corrupted or this is not one."),
        KeyError("column"),
        ValueError("bad value"),
        pa.ArrowInvalid("Unexpected end of stream: page has status: 503 of 500 values, timed out"),
        OSError("Couldn't deserialize thrift: page of (500) values in 503 bytes"),
    ],
)
def test_what_is_not_about_the_store_has_no_class(error: Exception) -> None:
    assert classify_error(error, "read") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        RuntimeError("Generic LocalFileSystem error Unable to copy data to file No space left on device (os error 28)"),
    ],
)
def test_no_room_is_an_error_of_its_own_and_not_tried_again(error: Exception) -> None:
    with pytest.raises(StorageFullError, match="cannot write /data/a: ") as caught:
        retrying(failing([error]), "write /data/a")
    assert caught.value.remedy == "make room there, then run the same command again"
    assert caught.value.exit_code == 75


def test_an_error_is_shown_on_one_line_without_colours() -> None:
    failure = classify_error(OSError("SlowDown\n   \x1b[31m\u21b3\x1b[0m Error performing PUT"), "read a")
    assert failure is not None
    assert failure.message == "cannot read a: OSError: SlowDown Error performing PUT"


def test_a_long_error_is_cut() -> None:
    failure = classify_error(OSError("SlowDown " + "x" * 1_000 + "\nsecond line"), "read a")
    assert failure is not None
    assert len(failure.message) < 500
    assert "second line" not in failure.message


def test_transient_failures_are_tried_again_with_growing_pauses(naps: list[float]) -> None:
    assert retrying(failing([OSError("SlowDown"), TimeoutError()]), "read a") == "done"
    assert len(naps) == 2
    assert 0 < naps[0] < 0.4 < 2 * naps[1]


def test_a_store_that_keeps_failing_ends_as_transient(naps: list[float]) -> None:
    with pytest.raises(TransientStorageError, match="cannot read a: OSError: SlowDown"):
        retrying(failing([OSError("SlowDown")] * NUM_ATTEMPTS), "read a")
    assert len(naps) == NUM_ATTEMPTS - 1


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("AccessDenied"), StorageDeniedError, "cannot read a: OSError: AccessDenied"),
        (CorpusError("no column 'SlowDown'"), CorpusError, "no column 'SlowDown'"),
        (KeyError("column"), KeyError, "column"),
    ],
)
def test_everything_else_is_tried_once(error: Exception, kind: type[Exception], message: str) -> None:
    remaining = [error, OSError("a second attempt")]
    with pytest.raises(kind, match=message):
        retrying(failing(remaining), "read a")
    assert len(remaining) == 1


def test_storage_pickles_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("MY_SECRET", "other-secret")
    storage = Storage(StorageConfig(secret_key_env="MY_SECRET"))
    options = storage.delta_options("s3://b/a")
    pickled = pickle.dumps(storage)
    assert options["AWS_SECRET_ACCESS_KEY"] == "other-secret"
    assert b"very-secret" not in pickled
    assert b"other-secret" not in pickled
    assert pickle.loads(pickled) == storage


def test_delta_options_come_from_spec_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8333")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    from_environment = STORAGE.delta_options("s3://b/a")
    assert from_environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:8333"
    assert from_environment["AWS_ALLOW_HTTP"] == "true"
    assert from_environment["AWS_REGION"] == "us-east-1"
    assert "AWS_SESSION_TOKEN" not in from_environment
    spec = StorageConfig(endpoint_url="https://s3.example", region="eu-1")
    from_spec = Storage(spec).delta_options("s3://b/a")
    assert (from_spec["AWS_ENDPOINT_URL"], from_spec["AWS_REGION"]) == ("https://s3.example", "eu-1")
    assert "AWS_ALLOW_HTTP" not in from_spec
    assert STORAGE.delta_options("/data/a") == {}


def test_a_missing_file_is_not_the_store_s_fault_but_a_missing_bucket_is() -> None:
    assert classify_error(FileNotFoundError("part-00503.parquet"), "read it") is None
    missing_bucket = classify_error(FileNotFoundError("The specified bucket does not exist"), "list it")
    assert isinstance(missing_bucket, StorageDeniedError)
