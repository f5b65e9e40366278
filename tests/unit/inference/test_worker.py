from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import CorpusError, ModelError
from pipeline.inference.job import ScoreJob
from pipeline.inference.source import ModelSource
from pipeline.inference.worker import NON_FINITE
from pipeline.output.ledger import records_from
from pipeline.schema import QUARANTINE_SCHEMA, file_schema
from tests.tiny import make_bundle, make_network, make_rows, write_corpus
from tests.unit.inference.scoring import NIGHT, STORAGE, files_below, prepared, scorer_for

TEXTS = ["the film was superb", None, "bad", "  ", "good " * 60, "日本"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    pq.write_table(pa.table({"id": range(6), "text": pa.array(TEXTS, pa.string())}), directory / "a.parquet")
    return directory


def read_back(table: Path, path: str | None) -> list[dict[str, Any]]:
    assert path is not None
    return pq.read_table(table / path, partitioning=None).to_pylist()


def test_every_row_is_either_scored_or_quarantined(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table", corpus={"keep": ["id"]})
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    scored = read_back(tmp_path / "table", record.path)
    bad = read_back(tmp_path / "table" / "_quarantine", record.quarantine_path)
    assert [(row["source_row"], row["id"]) for row in scored] == [(0, 0), (2, 2), (4, 4), (5, 5)]
    assert [(row["source_row"], row["reason"]) for row in bad] == [(1, "text is null"), (3, "text is blank")]
    assert {row["source_file"] for row in (*scored, *bad)} == {str(corpus / "a.parquet")}
    assert (record.num_scored_rows, record.num_quarantined_rows, record.num_rows) == (4, 2, 6)


def test_scores_and_embeddings_are_those_of_plain_transformers(
    bundle_directory: Path, corpus: Path, tmp_path: Path
) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table", corpus={"keep": ["id"]})
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    tokenizer = AutoTokenizer.from_pretrained(bundle_directory)
    head = AutoModelForSequenceClassification.from_pretrained(bundle_directory).eval()
    encoder = AutoModel.from_pretrained(bundle_directory).eval()
    for row in read_back(tmp_path / "table", record.path):
        inputs = tokenizer(TEXTS[row["id"]], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            scores = head(**inputs).logits.softmax(dim=1)[0].numpy()
            mean = encoder(**inputs).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(row["class_scores"], scores, atol=1e-5)
        np.testing.assert_allclose(row["embedding"], mean / np.linalg.norm(mean), atol=1e-5)
        assert row["label"] == head.config.id2label[int(scores.argmax())]
        assert row["score"] == pytest.approx(scores.max(), abs=1e-5)
        assert row["num_tokens"] == inputs["input_ids"].shape[1]
        assert row["truncated"] == (row["id"] == 4)


def test_the_file_has_the_tables_columns_and_says_what_made_it(
    bundle_directory: Path, corpus: Path, tmp_path: Path
) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    (record,) = records_from(scorer_for(run, "run-7").process(run.plan.pending[0]))
    assert record.path is not None
    assert record.quarantine_path is not None
    scored = tmp_path / "table" / record.path
    footer = pq.read_metadata(scored).metadata
    assert footer[b"bertmill.run_id"] == b"run-7"
    assert footer[b"bertmill.fingerprint"].decode() == run.ledger.fingerprint
    assert footer[b"bertmill.model_version"].decode() == run.bundles[""].model_version
    assert pq.read_schema(scored).remove_metadata() == file_schema(run.table_schema)
    bad = tmp_path / "table" / "_quarantine" / record.quarantine_path
    assert pq.read_schema(bad).remove_metadata() == file_schema(QUARANTINE_SCHEMA)
    assert scored.stat().st_size == record.size_bytes
    assert bad.stat().st_size == record.quarantine_size_bytes


def test_receipts_are_small_and_count_tokens(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    receipt = scorer_for(run).process(run.plan.pending[0])
    (record,) = records_from(receipt)
    scored = read_back(tmp_path / "table", record.path)
    assert receipt.nbytes < 2_048
    assert len(pickle.dumps(receipt)) < 2_048
    assert record.num_tokens == sum(row["num_tokens"] for row in scored)
    assert record.num_truncated_rows == 1
    assert record.num_padded_tokens >= record.num_tokens


def test_a_shard_done_twice_has_one_record_and_one_pair_of_files(
    bundle_directory: Path, corpus: Path, tmp_path: Path
) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    shard = run.plan.pending[0]
    (first,) = records_from(scorer_for(run, "run-1").process(shard))
    files = files_below(tmp_path / "table")
    (second,) = records_from(scorer_for(run, "run-2").process(shard))
    assert second == first
    assert files_below(tmp_path / "table") == files
    assert files == {
        first.path,
        f"_quarantine/{first.quarantine_path}",
        f"_bertmill/ledger/run_date={NIGHT}/{run.ledger.fingerprint[:32]}/{shard.name}.json",
    }


def test_a_shard_without_usable_rows_has_no_scored_file(bundle_directory: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pq.write_table(pa.table({"text": pa.array([1, 2, None])}), corpus / "a.parquet")
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    assert (record.path, record.size_bytes, record.num_scored_rows, record.num_tokens) == (None, 0, 0, 0)
    reasons = [row["reason"] for row in read_back(tmp_path / "table" / "_quarantine", record.quarantine_path)]
    assert reasons == ["text is int64, not a string", "text is int64, not a string", "text is null"]


def test_a_shard_without_bad_rows_has_no_quarantine_file(bundle_directory: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    run = prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table")
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    assert (record.quarantine_path, record.quarantine_size_bytes, record.num_quarantined_rows) == (None, 0, 0)
    assert not (tmp_path / "table" / "_quarantine").exists()


def test_rows_whose_output_is_not_finite_are_quarantined_alone(tmp_path: Path) -> None:
    network = make_network()
    make_bundle(tmp_path / "plain")
    token = AutoTokenizer.from_pretrained(tmp_path / "plain").convert_tokens_to_ids("dull")
    with torch.no_grad():
        network.base_model.embeddings.word_embeddings.weight[token] = float("nan")
    make_bundle(tmp_path / "poisoned", network=network)
    write_corpus(tmp_path / "corpus", num_files=1, rows_per_file=60)
    texts = make_rows(60)["text"].to_pylist()
    run = prepared(tmp_path / "poisoned", tmp_path / "corpus", tmp_path / "table")
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    bad = read_back(tmp_path / "table" / "_quarantine", record.quarantine_path)
    assert [row["source_row"] for row in bad] == [row for row, text in enumerate(texts) if "dull" in text]
    assert {row["reason"] for row in bad} == {NON_FINITE}
    assert record.num_rows == 60
    assert all(np.isfinite(row["embedding"]).all() for row in read_back(tmp_path / "table", record.path))


def test_blank_text_is_scored_where_the_spec_says_so(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table", corpus={"empty_text": "score"})
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    assert [row["source_row"] for row in read_back(tmp_path / "table", record.path)] == [0, 2, 3, 4, 5]


def test_embeddings_are_left_out_where_the_spec_says_so(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table", output={"embedding": False})
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    assert "embedding" not in read_back(tmp_path / "table", record.path)[0]


def test_a_corpus_that_changed_leaves_no_record(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    pq.write_table(pa.table({"text": ["other", "rows"]}), corpus / "a.parquet")
    with pytest.raises(CorpusError, match="changed or vanished while the job ran"):
        scorer_for(run).process(run.plan.pending[0])
    assert not (tmp_path / "table").exists()


def test_the_job_travels_small_and_without_weights(bundle_directory: Path, corpus: Path, tmp_path: Path) -> None:
    run = prepared(bundle_directory, corpus, tmp_path / "table")
    model = ModelSource(run.spec.bundle, run.source.texts, run.spec.compute, 1, STORAGE)
    job = ScoreJob(model, run.source, run.ledger, run.table_schema, "run-1")
    pickled = pickle.dumps(job)
    assert len(pickled) < 20_000
    assert pickle.loads(pickled) == job


def test_a_spoilt_bundle_is_refused_by_the_worker(corpus: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    run = prepared(tmp_path / "bundle", corpus, tmp_path / "table")
    (tmp_path / "bundle" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json differs from what was written"):
        scorer_for(run)


def test_a_bundle_written_anew_since_the_plan_is_refused_by_the_worker(corpus: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", seed=0)
    run = prepared(tmp_path / "bundle", corpus, tmp_path / "table")
    found = make_bundle(tmp_path / "bundle", seed=5)
    with pytest.raises(ModelError, match=f"was written anew .* expected version .*, found {found.model_version}"):
        scorer_for(run)
