from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.neighbours import NightIndex, model_versions, open_index
from pipeline.analysis.run import Analysis, analyse_index
from pipeline.analysis.spec import IndexSpec
from pipeline.errors import CorpusError, InputError, ModelError
from tests.unit.analysis.embedded import embedded_rows, make_night, noisy_copies
from tests.unit.output.scored import NIGHT, STORAGE

pytest.importorskip("faiss", reason="the extra `index` is not installed")


def build(tmp_path: Path, **fields: Any) -> Analysis:
    raw = {"table": str(tmp_path / "scores"), "output": str(tmp_path / "index"), "keep": ("id",), **fields}
    return analyse_index(IndexSpec.model_validate(raw), NIGHT)


def opened(tmp_path: Path) -> NightIndex:
    return open_index(str(tmp_path / "index"), NIGHT, STORAGE)


def test_rows_that_a_model_did_not_score_say_nothing_of_its_versions() -> None:
    tables = [pa.table({"v": pa.array(values, pa.string())}) for values in (["b", None], [None], ["a", "b"])]
    assert model_versions(tables, "v") == ["a", "b"]


@pytest.mark.parametrize(("kind", "least_recall"), [("flat", 1.0), ("hnsw", 0.97)])
def test_a_search_finds_what_a_pass_over_all_rows_finds(tmp_path: Path, kind: str, least_recall: float) -> None:
    vectors = noisy_copies(300, 10, 24, 1.0, seed=3)
    make_night(tmp_path / "scores", embedded_rows(vectors.tolist()))
    done = build(tmp_path, kind=kind)
    assert (done.found.facts["num_rows"], done.found.facts["kind"]) == (3_000, kind)
    queries = noisy_copies(300, 1, 24, 0.0, seed=3)[:100]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    best = np.argsort(-exact, axis=1)[:, :10]
    found = opened(tmp_path).search(queries.astype(np.float32), 10)
    hits = 0
    for query, near in enumerate(found):
        ids = [int(name) for name in near.rows["id"].to_pylist()]
        hits += len(set(ids) & set(best[query].tolist()))
        assert near.cosines == pytest.approx(exact[query, ids], abs=1e-5)
        assert list(near.cosines) == sorted(near.cosines, reverse=True)
    assert hits / best.size >= least_recall


def test_rows_without_a_vector_are_not_numbered(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([None, [1.0, 0.0], [0.0, 0.0], [0.0, 5.0], [1.0, 1.0]]))
    assert build(tmp_path).found.facts["num_without_embedding"] == 2
    (near,) = opened(tmp_path).search(np.array([[0.1, 3.0]], np.float32), 10)
    assert near.rows["id"].to_pylist() == ["3", "4", "1"]
    assert near.rows.column_names == ["source_file", "source_row", "id"]


def test_a_night_scored_anew_gets_another_index(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0]]))
    assert build(tmp_path).is_new
    assert not build(tmp_path).is_new
    make_night(tmp_path / "scores", embedded_rows([[0.0, 1.0], [1.0, 0.0]]), run_id="r2")
    assert len(build(tmp_path, keep_hours=0).removed) == 2
    (near,) = opened(tmp_path).search(np.array([[1.0, 0.0]], np.float32), 1)
    assert near.rows["id"].to_pylist() == ["1"]


def test_queries_that_are_not_of_the_night_s_model_are_refused(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0]]))
    build(tmp_path)
    index = opened(tmp_path)
    index.check_model("m1")
    with pytest.raises(ModelError, match="the bundle has model_version m2, the night was scored with m1"):
        index.check_model("m2")
    with pytest.raises(ModelError, match="queries have 3 numbers, the night's vectors 2"):
        index.search(np.ones((1, 3), np.float32), 1)


def test_an_index_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(CorpusError, match="no index of night 2026-11-23"):
        opened(tmp_path)
    Path(build(tmp_path).found.files["index.faiss"]).unlink()
    with pytest.raises(CorpusError, match=r"index\.faiss: is gone"):
        opened(tmp_path)
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match="an index needs faiss"):
        opened(tmp_path)
