"""Secrets stay in the environment, and what comes from storage stays data."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import traceback
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs.nights import parse_date
from pipeline.config import StorageConfig, parse_spec
from pipeline.encoder.bundle import BUNDLE_FILE, fetch_bundle, read_bundle_info, resolve_encoder
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import load_network
from pipeline.errors import ModelError, SpecError, StorageDeniedError
from pipeline.inference.job import ScoreJob
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.publish import publish_run
from pipeline.inference.source import ModelSource
from pipeline.inference.spec import ScoreSpec
from pipeline.storage import Storage, _resolve_s3, classify_error, retrying
from tests.tiny import write_corpus
from tests.unit.inference.scoring import prepared, score_all, score_spec

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASTANDARDKEYSENTINEL",
    "AWS_SECRET_ACCESS_KEY": "standard-secret-sentinel",
    "AWS_SESSION_TOKEN": "standard-token-sentinel",
    "OWN_KEY": "AKIAOWNKEYSENTINEL",
    "OWN_SECRET": "own-secret-sentinel",
    "OWN_TOKEN": "own-token-sentinel",
}
STANDARD = StorageConfig(endpoint_url="http://127.0.0.1:9")
OWN = StorageConfig(
    endpoint_url="http://127.0.0.1:9",
    access_key_env="OWN_KEY",
    secret_key_env="OWN_SECRET",
    session_token_env="OWN_TOKEN",
)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bundle(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))


@pytest.fixture
def encoder(encoder_directory: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(encoder_directory, tmp_path / "encoder"))


def assert_no_secret(text: str | bytes) -> None:
    content = text.encode() if isinstance(text, str) else text
    assert [name for name, value in SECRETS.items() if value.encode() in content] == []


def prepared_run(bundle: Path, root: Path, config: StorageConfig, **output: Any) -> PreparedRun:
    write_corpus(root / "corpus")
    return prepared(bundle, root / "corpus", root / "scores", storage=config.model_dump(), output=output)


@pytest.mark.parametrize("config", [STANDARD, OWN], ids=["standard", "own"])
def test_nothing_a_run_writes_holds_a_secret(config: StorageConfig, bundle_directory: Path, tmp_path: Path) -> None:
    run = prepared_run(bundle_directory, tmp_path, config, select="new")
    run.cache.save(run.footers)
    publish_run(run, score_all(run), "run-1", 0.0)
    files = [path for path in (tmp_path / "scores").rglob("*") if path.is_file()]
    folders = {path.relative_to(tmp_path / "scores").parts[0] for path in files}
    assert folders >= {"_delta_log", "_manifests", "_bertmill"}
    assert {"ledger", "coverage", "layouts"} <= {path.relative_to(tmp_path / "scores").parts[1] for path in files}
    for path in files:
        assert_no_secret(path.read_bytes())
        if path.suffix == ".parquet":  # compressed: look at what it says
            table = pq.read_table(path, partitioning=None)
            assert_no_secret(f"{table.schema.metadata} {table.to_pylist()}")
    (manifest,) = (tmp_path / "scores" / "_manifests").rglob("run-1.json")
    assert json.loads(manifest.read_text())["spec"]["storage"] == config.model_dump()


@pytest.mark.parametrize("config", [STANDARD, OWN], ids=["standard", "own"])
def test_nothing_sent_to_workers_holds_a_secret(config: StorageConfig, bundle_directory: Path, tmp_path: Path) -> None:
    run = prepared_run(bundle_directory, tmp_path, config)
    storage = run.ledger.storage
    storage.open_arrow("s3://bucket/key")  # clients are made, and must not travel
    model = ModelSource(run.spec.bundle, run.source.texts, run.spec.compute, 1, storage)
    job = ScoreJob(model, run.source, run.ledger, run.table_schema, "run-1")
    for thing in (storage, model, job, run.spec, run.plan.shards):
        assert_no_secret(pickle.dumps(thing))
        assert_no_secret(repr(thing))
        assert_no_secret(str(thing))
    assert_no_secret(run.spec.model_dump_json())


def test_the_settings_that_do_hold_secrets_do_not_show_them() -> None:
    settings = _resolve_s3(OWN)
    assert settings.secret_key == SECRETS["OWN_SECRET"]
    assert_no_secret(repr(settings))
    assert_no_secret(str(settings))
    assert_no_secret(f"{settings}")


@pytest.mark.parametrize("config", [STANDARD, OWN], ids=["standard", "own"])
def test_wrong_credentials_are_told_without_them(config: StorageConfig) -> None:
    storage = Storage(config)
    storage.open_arrow("s3://bucket/key")

    def denied() -> None:
        raise PermissionError("The request signature we calculated does not match the signature you provided.")

    with pytest.raises(StorageDeniedError, match="request signature") as raised:
        retrying(denied, "read s3://bucket/key")
    error = raised.value
    for text in (str(error), repr(error), "".join(traceback.format_exception(error)), pickle.dumps(error)):
        assert_no_secret(text)
    assert "AWS_SECRET_ACCESS_KEY" in str(error.remedy)


def test_a_password_in_the_endpoint_of_the_environment_is_not_repeated() -> None:
    error = ConnectionError("Could not connect to the endpoint URL: http://me:own-secret-sentinel@store:9000/bucket")
    told = classify_error(error, "list s3://bucket")
    assert told is not None
    assert_no_secret(str(told))
    assert "http://...@store:9000" in str(told)


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [
        ("corpus", "uri", "ftp://me:own-secret-sentinel@host/corpus"),
        ("output", "uri", "s3://key:own-secret-sentinel@bucket/table"),
        ("storage", "endpoint_url", "http://me:own-secret-sentinel@host:9000"),
    ],
)
def test_a_spec_may_not_hold_a_password(block: str, field: str, value: str) -> None:
    raw: dict[str, Any] = {"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o"}}
    raw[block] = {field: value}
    with pytest.raises(SpecError, match="holds a password") as raised:
        parse_spec(raw, ScoreSpec, "spec")
    assert_no_secret(str(raised.value))


def test_names_without_a_password_pass() -> None:
    spec = score_spec(Path("/b"), Path("/c"), Path("/o"), output={"uri": "abfs://container@account.host/table"})
    assert spec.output.uri == "abfs://container@account.host/table"


def rename_in_bundle(bundle: Path, name: str) -> None:
    info = json.loads((bundle / BUNDLE_FILE).read_text())
    info["files"][name] = info["files"]["config.json"]
    (bundle / BUNDLE_FILE).write_text(json.dumps(info))


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "~/x.json", "..\\x.json"])
def test_a_bundle_that_names_a_file_outside_itself_is_refused(name: str, bundle: Path) -> None:
    shutil.copy(bundle / "config.json", bundle.parent / "x.json")
    rename_in_bundle(bundle, name)
    with pytest.raises(ModelError, match="names a file outside the bundle"):
        fetch_bundle(str(bundle), Storage())


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "x.pkl", "modeling.py", "x.json.pickle", "x.so", "none", "x.JSON"]
)
def test_a_bundle_that_names_a_file_that_could_hold_code_is_refused(name: str, bundle: Path) -> None:
    shutil.copy(bundle / "config.json", bundle / name)
    rename_in_bundle(bundle, name)
    with pytest.raises(ModelError, match=f"names {name}; expected files ending in .json, .safetensors"):
        fetch_bundle(str(bundle), Storage())
    with pytest.raises(ModelError, match="do not use this bundle"):
        read_bundle_info(str(bundle), Storage())


def test_a_model_with_pickled_weights_only_is_refused(encoder: Path) -> None:
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        resolve_encoder(str(encoder), Storage())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_network(encoder, "AutoModel")


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_in_a_model_directory_is_not_run(model_type: str, encoder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (encoder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w').close()\nclass Evil: pass\n")
    names = ["AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer"]
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((encoder / file).read_text())
        content["auto_map"] = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        if file == "config.json":
            content["model_type"] = model_type
        (encoder / file).write_text(json.dumps(content))
    for load in (lambda: load_network(encoder, "AutoModel"), lambda: load_tokenizer(encoder)):
        with contextlib.suppress(ModelError):  # refused, or loaded as the transformers class of its family
            assert type(load()).__module__.startswith("transformers.")
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/x", "a b", "A", ""])
def test_a_bundle_s_name_cannot_be_a_path(name: str) -> None:
    raw = {"bundle": {name: "/b", "other": "/b2"}, "corpus": {"uri": "/c"}, "output": {"uri": "/o"}}
    with pytest.raises(ValidationError, match="cannot prefix columns"):
        ScoreSpec.model_validate(raw)


@pytest.mark.parametrize("date", ["../../x", "2026-11-23/../..", "2026-11-23 ", ""])
def test_a_night_cannot_be_a_path(date: str) -> None:
    with pytest.raises(SpecError, match="a date like 2026-11-23"):
        parse_date(date)


def test_an_output_is_one_place_however_it_is_spelt(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="overlap"):
        score_spec(Path("/b"), tmp_path / "corpus", tmp_path / "x" / ".." / "corpus" / "scores")


def test_a_run_writes_nothing_beside_its_output(bundle: Path, tmp_path: Path) -> None:
    run = prepared_run(bundle, tmp_path, STANDARD)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    publish_run(run, score_all(run), "run-1", 0.0)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new
    assert [path for path in new if not path.is_relative_to(tmp_path / "scores")] == []
