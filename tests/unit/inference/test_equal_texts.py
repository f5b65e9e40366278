"""Texts that stand several times in a shard are computed once, and every row has its own line in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inference import worker
from pipeline.inference.predictor import Predictor
from pipeline.output.ledger import DoneRecord, records_from
from tests.unit.inference.scoring import prepared, scorer_for

TEXTS = ["the film was superb", "bad", None, "the film was superb", "dull and long", "bad", "bad", "fine"]


def score(bundle: Path, corpus: Path, table: Path) -> tuple[DoneRecord, list[dict[str, Any]]]:
    run = prepared(bundle, corpus, table, corpus={"keep": ["id"]})
    (record,) = records_from(scorer_for(run).process(run.plan.pending[0]))
    assert record.path is not None
    return record, pq.read_table(table / record.path, partitioning=None).to_pylist()


def test_equal_texts_are_computed_once(bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table({"id": range(8), "text": pa.array(TEXTS, pa.string())}), tmp_path / "corpus" / "a.parquet")
    asked: list[int] = []
    predict = Predictor.predict

    def count(self: Predictor, rows: pa.Table, *given: Any) -> Any:
        asked.append(rows.num_rows)
        return predict(self, rows, *given)

    monkeypatch.setattr(Predictor, "predict", count)
    once, ours = score(bundle_directory, tmp_path / "corpus", tmp_path / "once")
    monkeypatch.setattr(worker, "group_texts", lambda rows, _texts: (np.arange(rows.num_rows),) * 2)
    each, theirs = score(bundle_directory, tmp_path / "corpus", tmp_path / "each")

    assert asked == [4, 7]
    assert (once.num_reused_rows, each.num_reused_rows) == (3, 0)
    assert (
        (once.num_scored_rows, once.num_quarantined_rows) == (7, 1) == (each.num_scored_rows, each.num_quarantined_rows)
    )
    assert once.num_tokens < each.num_tokens == sum(row["num_tokens"] for row in ours)
    assert [(row["source_row"], row["id"]) for row in ours] == [(row, row) for row in (0, 1, 3, 4, 5, 6, 7)]
    for one, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            if isinstance(value, float | list):
                np.testing.assert_allclose(one[name], value, atol=1e-6, err_msg=name)
            else:
                assert one[name] == value, name
