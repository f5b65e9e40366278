"""A night from Parquet to five readers, on a local directory and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
import torch
from deltalake import DeltaTable
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.inference.prepare import prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.run import score_pending
from pipeline.output.history import read_nights
from pipeline.output.table import open_table
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.tiny import make_bundle

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="session")
def bundle_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory, LABELS, max_length=64)
    return directory


@pytest.fixture
def spec(root_uri: str, bundle_directory: Path) -> helpers.ScoreSpec:
    helpers.write_demo_corpus(join_uri(root_uri, "corpus"))
    bundle = helpers.upload_directory(bundle_directory, join_uri(root_uri, "bundle"))
    return helpers.score_spec(bundle, join_uri(root_uri, "corpus"), join_uri(root_uri, "scores"))


@pytest.mark.usefixtures("alone")
def test_night_appears_at_once_and_every_row_is_accounted_for(spec: helpers.ScoreSpec) -> None:
    run = prepare_run(spec, helpers.NIGHT)
    records = score_pending(run, helpers.POOL, "run-1")
    assert len(records) == len(run.plan.shards) == 12
    assert open_table(spec.output.uri, Storage()) is None, "scored files must be invisible before the commit"

    report = publish_run(run, records, "run-1", 0.0)

    assert (report.num_rows, report.num_scored_rows, report.num_quarantined_rows) == (1200, 1192, 8)
    rows = helpers.read_rows(spec.output.uri)
    assert len({(row["source_file"], row["source_row"]) for row in rows}) == len(rows) == 1192
    bad = open_table(join_uri(spec.output.uri, "_quarantine"), Storage())
    assert bad is not None
    reasons = [(row["source_row"], row["reason"]) for row in bad.to_pyarrow_table().to_pylist()]
    assert sorted(reasons) == [(7, "text is null")] * 4 + [(11, "text is blank")] * 4
    (night,) = read_nights(spec.output.uri, Storage())
    assert (night.run_date, night.num_rows, night.num_quarantined_rows) == (helpers.NIGHT, 1192, 8)
    assert night.model_versions == (report.model_version,)


@pytest.mark.usefixtures("alone")
def test_second_run_does_only_what_changed(spec: helpers.ScoreSpec) -> None:
    first = helpers.run_night(spec)
    before = {(row["source_file"], row["source_row"]): row for row in helpers.read_rows(spec.output.uri, drop=())}
    assert prepare_run(spec, helpers.NIGHT).is_published

    added = join_uri(spec.corpus.uri[0], "domain=d9", "part-9.parquet")
    helpers.write_demo_corpus(join_uri(spec.corpus.uri[0], "new"), num_files=1)
    changed = join_uri(spec.corpus.uri[0], "domain=d1", "part-1.parquet")
    helpers.write_table(helpers.pa.table({"id": ["x"], "text": ["loved it"]}), changed)
    assert added not in {row[0] for row in before}
    second = helpers.run_night(spec)

    assert second.published
    assert second.num_rows == 900 + 1 + 300
    assert second.num_rows_this_run == 301, "only the changed and the new file are scored again"
    after = {(row["source_file"], row["source_row"]): row for row in helpers.read_rows(spec.output.uri, drop=())}
    kept = {key: row for key, row in before.items() if key[0] != changed}
    assert {key: after[key] for key in kept} == kept, "untouched rows stay as they were, run id included"
    assert [key for key in after if key[0] == changed] == [(changed, 0)]
    assert second.table_version > first.table_version


@pytest.mark.usefixtures("alone")
def test_nights_stand_side_by_side(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec, "2026-11-22")
    helpers.run_night(spec, "2026-11-23")
    nights = read_nights(spec.output.uri, Storage())
    assert [(night.run_date, night.num_rows) for night in nights] == [("2026-11-22", 1192), ("2026-11-23", 1192)]


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
def test_scores_equal_plain_transformers(spec: helpers.ScoreSpec, bundle_directory: Path, ray_local: None) -> None:
    helpers.run_night(spec)
    rows = helpers.read_rows(spec.output.uri)[:200]
    texts = _texts(spec)
    tokenizer = AutoTokenizer.from_pretrained(bundle_directory)
    model = AutoModelForSequenceClassification.from_pretrained(bundle_directory).eval()
    for row in rows:
        inputs = tokenizer(texts[row["id"]], return_tensors="pt", truncation=True, max_length=64)
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
        scores = output.logits.softmax(-1)[0].numpy()
        embedding = torch.nn.functional.normalize(output.hidden_states[-1].mean(dim=1), dim=-1)[0].numpy()
        assert row["label"] == LABELS[int(scores.argmax())]
        np.testing.assert_allclose(row["class_scores"], scores, atol=1e-5)
        np.testing.assert_allclose(row["embedding"], embedding, atol=1e-5)
        assert row["num_tokens"] == inputs["input_ids"].shape[1]


@pytest.mark.usefixtures("alone")
def test_five_readers_agree(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec)
    uri = spec.output.uri
    options = Storage().delta_options(uri)
    table = DeltaTable(uri, storage_options=options)
    night = table.to_pyarrow_dataset()  # DuckDB finds it by this name
    readings = {
        "pyarrow": night.to_table().select(["id", "label"]).to_pylist(),
        "deltalake": table.to_pyarrow_table(columns=["id", "label"]).to_pylist(),
        "pandas": table.to_pandas(columns=["id", "label"]).to_dict("records"),
        "polars": pl.scan_delta(uri, storage_options=options or None).select("id", "label").collect().to_dicts(),
        "duckdb": duckdb.sql("SELECT id, label FROM night").to_arrow_table().to_pylist(),
    }
    expected = sorted((row["id"], row["label"]) for row in readings["pyarrow"])
    assert len(expected) == 1192
    for reader, rows in readings.items():
        assert sorted((row["id"], row["label"]) for row in rows) == expected, reader


def _texts(spec: helpers.ScoreSpec) -> dict[str, str]:
    storage = Storage()
    texts: dict[str, str] = {}
    for item in storage.list_objects(spec.corpus.uri[0]):
        content = storage.read_bytes(item.uri)
        assert content is not None
        table = helpers.pq.read_table(helpers.io.BytesIO(content))
        texts.update(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return texts
