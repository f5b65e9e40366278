"""A real S3 server that refuses a key: what is raised says so, and nowhere says the key's secret."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

import pytest
from deltalake import DeltaTable

from pipeline.config import StorageConfig
from pipeline.corpus.listing import list_corpus
from pipeline.errors import StorageDeniedError
from pipeline.output.table import open_table
from pipeline.storage import Storage, retrying
from tests.flow.s3_server import S3Server

SECRET = "wrong-secret-sentinel"
CALLS: dict[str, Callable[[str, Storage], object]] = {
    "list": lambda uri, storage: list_corpus([uri], storage),
    "read": lambda uri, storage: storage.read_bytes(f"{uri}/a"),
    "write": lambda uri, storage: storage.write_bytes(f"{uri}/a", b"x"),
    "create": lambda uri, storage: storage.create_bytes(f"{uri}/a", b"x"),
    "arrow": lambda uri, storage: retrying(lambda: _open_input(uri, storage), f"read {uri}"),
    "table": open_table,
    "delta": lambda uri, storage: retrying(
        lambda: DeltaTable(uri, storage_options=storage.delta_options(uri)), f"read {uri}"
    ),
}


def _open_input(uri: str, storage: Storage) -> None:
    filesystem, path = storage.open_arrow(f"{uri}/a.parquet")
    filesystem.open_input_file(path).read()


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_key_is_told_without_its_secret(
    name: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_KEY", s3_server.access_key)
    monkeypatch.setenv("OWN_SECRET", SECRET)
    config = StorageConfig(endpoint_url=s3_server.endpoint_url, access_key_env="OWN_KEY", secret_key_env="OWN_SECRET")
    with pytest.raises(StorageDeniedError, match="cannot") as raised:
        CALLS[name](f"s3://{s3_server.bucket}/secrets", Storage(config))
    error = raised.value
    causes = [error, error.__context__] if error.__context__ else [error]
    for text in [str(error), repr(error), *("".join(traceback.format_exception(cause)) for cause in causes)]:
        assert SECRET not in text
        assert s3_server.secret_key not in text
    assert SECRET.encode() not in pickle.dumps(error)
