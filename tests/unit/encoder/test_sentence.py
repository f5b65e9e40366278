from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts

from pipeline.config import EncoderUse
from pipeline.encoder.bundle import read_bundle_info
from pipeline.encoder.sentence import settle_use
from pipeline.errors import ModelError
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.spec import BundleSpec
from pipeline.storage import Storage


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
