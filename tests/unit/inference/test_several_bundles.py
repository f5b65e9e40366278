"""Several bundles in one pass over a corpus: the columns of each, prefixed; every row once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from pipeline.config import parse_spec
from pipeline.errors import ModelError, SeveralErrors, SpecError
from pipeline.inference.publish import publish_run
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.worker import NON_FINITE
from pipeline.output.ledger import DoneRecord, records_from
from tests.tiny import make_rows, write_corpus
from tests.unit.inference.bundles import make_network, write, write_family
from tests.unit.inference.scoring import prepared, scorer_for

ACCOUNTS = ("num_tokens", "truncated", "num_windows", "model_version")
UNNAMED = Path("unused")


@pytest.fixture
def family(tmp_path: Path) -> dict[str, str]:
    return write_family(tmp_path / "bundles")


def score(root: Path, bundles: dict[str, str] | str, rows: Path, **changes: Any) -> tuple[DoneRecord, pa.Table | None]:
    """Score the one shard of a corpus; returns its record and its scored rows."""
    table = root / f"table-{len(list(root.iterdir()))}"
    run = prepared(UNNAMED, rows, table, bundle=bundles, **changes)
    (shard,) = run.plan.pending
    (record,) = records_from(scorer_for(run).process(shard))
    return record, pq.read_table(table / record.path, partitioning=None) if record.path else None


def assert_same_column(left: pa.ChunkedArray, right: pa.ChunkedArray) -> None:
    assert left.type == right.type
    kind = left.type.value_type if pa.types.is_list(left.type) else left.type
    if pa.types.is_floating(kind):
        values = [np.concatenate([np.ravel(row) for row in column.to_pylist()]) for column in (left, right)]
        np.testing.assert_allclose(*values, atol=1e-5)
    elif pa.types.is_struct(kind):
        for one, other in zip(left.to_pylist(), right.to_pylist(), strict=True):
            assert [{**item, "score": pytest.approx(item["score"], abs=1e-5)} for item in one] == other
    else:
        assert left.to_pylist() == right.to_pylist()


def test_each_bundle_says_what_it_says_alone(family: dict[str, str], tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1, rows_per_file=30)
    _, together = score(tmp_path, family, tmp_path / "corpus", corpus={"keep": ["id"]})
    assert together is not None
    added = []
    for name, uri in family.items():
        _, alone = score(tmp_path, uri, tmp_path / "corpus", corpus={"keep": ["id"]})
        assert alone is not None
        own = [column for column in alone.column_names if column not in ("source_file", "source_row", "id", "run_id")]
        assert {"embedding", *ACCOUNTS} <= set(own)
        added += [f"{name}_{column}" for column in own]
        for column in own:
            assert_same_column(together[f"{name}_{column}"], alone[column])
    assert together.column_names == ["source_file", "source_row", "id", *added, "run_id"]
    assert any(together["names_entities"].to_pylist())


@pytest.mark.parametrize(("asked", "written"), [(True, 4), (False, 0), (["search"], 1), (["tone", "search"], 2)])
def test_embeddings_are_written_for_the_bundles_that_are_named(
    family: dict[str, str], tmp_path: Path, asked: Any, written: int
) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    _, table = score(tmp_path, family, tmp_path / "corpus", output={"embedding": asked})
    assert table is not None
    names = [column for column in table.column_names if column.endswith("_embedding")]
    assert len(names) == written
    if isinstance(asked, list):
        assert sorted(names) == sorted(f"{name}_embedding" for name in asked)


def test_a_night_of_several_bundles_is_published_under_all_their_versions(
    family: dict[str, str], tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    run = prepared(UNNAMED, tmp_path / "corpus", tmp_path / "table", bundle=family)
    records = [record for shard in run.plan.pending for record in records_from(scorer_for(run).process(shard))]
    report = publish_run(run, records, "run-1", 0)
    versions = {name: info.model_version for name, info in run.bundles.items()}
    assert report.model_version == ", ".join(f"{name}={version}" for name, version in versions.items())
    assert report.num_scored_rows == 20
    assert prepared(UNNAMED, tmp_path / "corpus", tmp_path / "table", bundle=family).is_published


def test_a_row_that_one_bundle_cannot_read_is_quarantined_once(tmp_path: Path) -> None:
    write(tmp_path / "b" / "tone", "text-classification")
    write(tmp_path / "b" / "title", "text-classification", inputs={"text": "title"})
    write(tmp_path / "b" / "pair", "pair-classification")
    texts, titles = ["good", None, "bad", " ", "film"], ["was", "it", None, None, "the"]
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"text": texts, "title": titles}), tmp_path / "corpus" / "a.parquet")
    bundles = {name: str(tmp_path / "b" / name) for name in ("tone", "title", "pair")}
    record, scored = score(tmp_path, bundles, tmp_path / "corpus")
    assert scored is not None
    assert scored["source_row"].to_pylist() == [0, 4]
    assert (record.num_scored_rows, record.num_quarantined_rows, record.num_rows) == (2, 3, 5)


def test_a_row_that_is_not_finite_for_one_bundle_is_quarantined_once(family: dict[str, str], tmp_path: Path) -> None:
    poisoned = make_network("text-classification", encoder_seed=5)
    token = AutoTokenizer.from_pretrained(family["tone"]).convert_tokens_to_ids("dull")
    with torch.no_grad():
        poisoned.base_model.embeddings.word_embeddings.weight[token] = float("nan")
    write(tmp_path / "poisoned", "text-classification", network=poisoned)
    write_corpus(tmp_path / "corpus", num_files=1, rows_per_file=60)
    has_token = ["dull" in text for text in make_rows(60)["text"].to_pylist()]
    table = tmp_path / "scored"
    bundles = {**family, "poisoned": str(tmp_path / "poisoned")}
    run = prepared(UNNAMED, tmp_path / "corpus", table, bundle=bundles)
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    bad = pq.read_table(table / "_quarantine" / str(record.quarantine_path), partitioning=None)
    assert bad["source_row"].to_pylist() == [row for row, poisons in enumerate(has_token) if poisons]
    assert set(bad["reason"].to_pylist()) == {NON_FINITE}
    assert set(bad["model_version"].to_pylist()) == {run.model_version}
    assert record.num_rows == 60
    assert record.num_scored_rows == has_token.count(False)


def test_a_kept_column_that_a_bundle_writes_is_refused(family: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    rows = {"text": ["good"], "Tone_Label": ["x"], "tone": ["y"], "label": ["z"]}
    pq.write_table(pa.table(rows), tmp_path / "corpus" / "a.parquet")
    with pytest.raises(SpecError, match=r"corpus\.keep: 'tone_label' is a column that a bundle writes.*(.|\n)*rename"):
        score(tmp_path, family, tmp_path / "corpus", corpus={"keep": ["Tone_Label"]})
    with pytest.raises(SpecError, match=r"corpus\.keep: 'label' is a column that a bundle writes"):
        score(tmp_path, family["tone"], tmp_path / "corpus", corpus={"keep": ["label"]})
    _, table = score(tmp_path, family, tmp_path / "corpus", corpus={"keep": ["tone", "label"]})
    assert table is not None
    assert (table["tone"].to_pylist(), table["label"].to_pylist()) == (["y"], ["z"])


def parse(**fields: Any) -> ScoreSpec:
    raw = {"bundle": {"tone": "/b/tone"}, "corpus": {"uri": "/c"}, "output": {"uri": "/o"}}
    return parse_spec({**raw, **fields}, ScoreSpec, "spec.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"output": {"uri": "/o", "embedding": ["mood"]}},
            "output.embedding names 'mood', which is none of the bundles",
        ),
        ({"bundle": "/b", "output": {"uri": "/o", "embedding": ["b"]}}, "output.embedding names 'b', which is none"),
        ({"bundle": {"Tone": "/b"}}, "'Tone' cannot prefix columns: lower-case letters, digits and '_'"),
        ({"bundle": {"tone": "/b", "": "/c2"}}, "'' cannot prefix columns"),
        ({"bundle": {}}, "bundle: holds {}"),
        ({"bundle": {"tone": 3}}, "bundle.tone: holds 3"),
        ({"bundle": ["/b"]}, "bundle: holds ['/b']"),
    ],
)
def test_bundles_and_embeddings_must_have_names_that_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml: 1 problem") as caught:
        parse(**fields)
    assert message in str(caught.value)


def test_one_bundle_is_one_without_a_name() -> None:
    assert parse(bundle="/b/tone/").bundle == {"": "/b/tone"}
    assert list(parse(bundle={"b": "/1", "a": "s3a://x/2/"}).bundle.items()) == [("b", "/1"), ("a", "s3://x/2")]


def test_bundles_that_are_not_there_are_told_together(family: dict[str, str], tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    gone = {"one": str(tmp_path / "no-one"), "two": str(tmp_path / "no-two")}
    with pytest.raises(SeveralErrors, match="2 problems") as caught:
        score(tmp_path, {**family, **gone}, tmp_path / "corpus")
    assert [isinstance(error, ModelError) for error in caught.value.errors] == [True, True]
