from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts

from pipeline.config import EncoderUse
from pipeline.encoder.bundle import pin_model, read_bundle_info, resolve_encoder
from pipeline.encoder.sentence import settle_use
from pipeline.errors import ModelError
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.spec import BundleSpec
from pipeline.storage import Storage
from tests.unit.encoder.families import FAMILIES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save(directory: Path, encoder: Path, *after: Any) -> str:
    first = parts.Transformer(str(encoder), max_seq_length=32)
    SentenceTransformer(modules=[first, *after], device="cpu").save(str(directory))
    return str(directory)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_a_bundle_embeds_as_its_directory_says(
    tmp_path: Path, encoder_directory: Path, pooling: str, normalize: bool
) -> None:
    after = [parts.Pooling(32, pooling_mode=pooling), *([parts.Normalize()] if normalize else [])]
    model = save(tmp_path / "model", encoder_directory, *after)
    bundle_encoder(BundleSpec(model=model, output=str(tmp_path / "bundle"), max_length=32))
    info = read_bundle_info(str(tmp_path / "bundle"), Storage())
    assert (info.pooling, info.normalize) == (pooling, normalize)
    texts = pa.array(["good film", "it was a dull and awful film"]).to_pylist()
    ours, theirs = (SentenceTransformer(str(path), device="cpu").encode(texts) for path in (tmp_path / "bundle", model))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_the_spec_says_wins(tmp_path: Path, encoder_directory: Path) -> None:
    model = save(tmp_path / "model", encoder_directory, parts.Pooling(32, pooling_mode="cls"))
    assert settle_use(EncoderUse(pooling="max"), model) == EncoderUse(pooling="max", normalize=False)
    assert settle_use(EncoderUse(normalize=True), model) == EncoderUse(pooling="cls", normalize=True)
    assert settle_use(EncoderUse(), str(encoder_directory)) == EncoderUse()


def test_older_files_have_a_flag_for_each_mode(tmp_path: Path) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({**flags, "include_prompt": True}))
    assert settle_use(EncoderUse(), str(tmp_path)).pooling == "cls"


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ([parts.Pooling(32), parts.Dense(32, 8)], "Transformer, Pooling, Dense with pooling mean"),
        ([parts.Pooling(32, pooling_mode="lasttoken")], "with pooling lasttoken"),
    ],
)
def test_embeddings_of_another_kind_are_refused(
    tmp_path: Path, encoder_directory: Path, after: list[Any], message: str
) -> None:
    model = save(tmp_path / "model", encoder_directory, *after)
    with pytest.raises(ModelError, match=message):
        settle_use(EncoderUse(), model)
    assert settle_use(EncoderUse(), model, is_strict=False) == EncoderUse()
    assert settle_use(EncoderUse(pooling="mean", normalize=True), model).pooling == "mean"


def test_a_model_that_puts_a_prompt_before_each_text_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    model = save(tmp_path / "model", encoder_directory, parts.Pooling(32, pooling_mode="cls"))
    path = tmp_path / "model" / "config_sentence_transformers.json"
    settings = {**json.loads(path.read_text()), "prompts": {"query": "good: ", "document": ""}}
    path.write_text(json.dumps({**settings, "default_prompt_name": "query"}))
    with pytest.raises(ModelError, match=r"a prompt stands before each text \('good: '\)"):
        settle_use(EncoderUse(), model)
    assert settle_use(EncoderUse(pooling="cls", normalize=False), model).pooling == "cls"
    assert settle_use(EncoderUse(), model, is_strict=False).pooling == "cls"
    for name in ("document", None):
        path.write_text(json.dumps({**settings, "default_prompt_name": name}))
        assert settle_use(EncoderUse(), model).pooling == "cls"


def test_a_model_that_cuts_its_embeddings_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    model = save(tmp_path / "model", encoder_directory, parts.Pooling(32, pooling_mode="cls"))
    path = tmp_path / "model" / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncate_dim": 8}))
    with pytest.raises(ModelError, match=r"embeddings are cut to their first 8 numbers \(truncate_dim\)"):
        settle_use(EncoderUse(), model)
    assert settle_use(EncoderUse(pooling="cls", normalize=False), model).pooling == "cls"


@pytest.mark.parametrize("tokenizer_lowers", [False, True])
def test_a_model_that_lowers_texts_itself_is_refused(
    tmp_path: Path, encoder_directory: Path, tokenizer_lowers: bool
) -> None:
    model = save(tmp_path / "model", encoder_directory, parts.Pooling(32, pooling_mode="cls"))
    (tmp_path / "model" / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    for name, owner in (("tokenizer.json", "normalizer"), ("tokenizer_config.json", None)):
        path = tmp_path / "model" / name
        settings = json.loads(path.read_text())
        (settings[owner] if owner else settings)["lowercase" if owner else "do_lower_case"] = tokenizer_lowers
        path.write_text(json.dumps(settings))
    if tokenizer_lowers:
        assert settle_use(EncoderUse(), model).pooling == "cls"
    else:
        with pytest.raises(ModelError, match="texts are made lower case"):
            settle_use(EncoderUse(), model)


@pytest.fixture
def hub(tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with one commit of `org/cls-model`, and no hub."""
    folder = tmp_path / "hub" / "models--org--cls-model"
    save(folder / "snapshots" / COMMIT, encoder_directory, parts.Pooling(32, pooling_mode="cls"))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder / "snapshots" / COMMIT


def test_a_model_of_the_hub_is_used_as_its_directory_would_be(hub: Path, tmp_path: Path) -> None:
    assert resolve_encoder("org/cls-model", Storage()) == str(hub)
    assert pin_model("org/cls-model", str(hub)) == f"org/cls-model@{COMMIT}"
    assert resolve_encoder(f"org/cls-model@{COMMIT}", Storage()) == str(hub)
    assert pin_model(str(hub), str(hub)) == str(hub)
    named, by_path = (
        bundle_encoder(BundleSpec(model=model, output=str(tmp_path / name), max_length=32))
        for model, name in (("org/cls-model", "one"), (str(hub), "other"))
    )
    assert (named.pooling, named.fingerprint) == ("cls", by_path.fingerprint)


def test_a_model_that_the_hub_does_not_give_is_told(hub: Path) -> None:
    with pytest.raises(ModelError, match="org/other: no such directory, and the Hugging Face hub does not give it"):
        resolve_encoder("org/other", Storage())
    (hub / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        resolve_encoder("org/cls-model", Storage())


def test_a_pooler_that_is_not_there_is_drawn_alike_each_time(tmp_path: Path) -> None:
    FAMILIES["bert"].network("AutoModelForMaskedLM").save_pretrained(tmp_path / "model")
    FAMILIES["bert"].tokenizer().save_pretrained(tmp_path / "model")
    spec = {"model": str(tmp_path / "model"), "max_length": 32}
    one, other = (bundle_encoder(BundleSpec(**spec, output=str(tmp_path / name))) for name in ("one", "other"))
    assert one.fingerprint == other.fingerprint
