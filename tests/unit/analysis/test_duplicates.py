from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from pipeline.analysis import duplicates as duplicates_module
from pipeline.analysis.duplicates import close_pairs
from pipeline.analysis.run import Analysis, analyse_duplicates
from pipeline.analysis.spec import DuplicatesSpec
from pipeline.errors import CorpusError
from tests.unit.analysis.embedded import Rows, embedded_rows, make_night, noisy_copies, walk_groups
from tests.unit.output.scored import NIGHT

THRESHOLD = 0.9


def analyse(tmp_path: Path, **fields: Any) -> Analysis:
    raw = {"table": str(tmp_path / "scores"), "output": str(tmp_path / "found"), "keep": ("id",)}
    return analyse_duplicates(DuplicatesSpec.model_validate({**raw, "threshold": THRESHOLD, **fields}), NIGHT)


def members(done: Analysis) -> Rows:
    """The rows of a result, as DuckDB reads them."""
    (file,) = done.found.files.values()
    return list(duckdb.sql("SELECT * FROM read_parquet(?)", params=[file]).to_arrow_table().to_pylist())


def plain_groups(rows: Rows, threshold: float) -> set[frozenset[str]]:
    """Groups of ids, by all cosines in float64."""
    vectors = np.array([row["embedding"] for row in rows])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T >= threshold
    return {frozenset(rows[index]["id"] for index in group) for group in walk_groups(near) if len(group) > 1}


def found_groups(done: Analysis) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = defaultdict(set)
    for row in members(done):
        groups[row["group_id"]].add(row["id"])
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("block_rows", [16, 64, 4096])
def test_groups_are_those_of_all_pairs_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr(duplicates_module, "_STRIPE_ROWS", 24)
    rows = embedded_rows(noisy_copies(70, 3, 16, 0.32, seed=5).tolist())
    make_night(tmp_path / "scores", rows)
    expected = plain_groups(rows, THRESHOLD)
    assert {len(group) for group in expected} == {2, 3}
    assert len(expected) > 30
    assert found_groups(analyse(tmp_path, block_rows=block_rows)) == expected


def test_a_group_is_all_that_is_connected_and_tells_how_far_it_reaches(tmp_path: Path) -> None:
    angles = np.deg2rad([0, 20, 40, 60, 180])
    rows = embedded_rows(np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist(), names=("b", "a"))
    make_night(tmp_path / "scores", rows)
    done = analyse(tmp_path)
    found = members(done)
    # rows of a come before rows of b, so its first is what the others are measured against
    assert [(row["source_file"], row["source_row"], row["is_representative"]) for row in found] == [
        ("a", 0, True),
        ("b", 0, False),
        ("b", 1, False),
        ("b", 2, False),
    ]
    assert [row["similarity"] for row in found] == pytest.approx(
        [1, np.cos(angles[3]), np.cos(angles[2]), np.cos(angles[1])]
    )
    assert {row["group_rows"] for row in found} == {4}
    facts = done.found.facts
    assert (facts["num_rows"], facts["num_groups"], facts["num_members"]) == (5, 1, 4)


def test_rows_without_a_vector_are_counted_and_left_out(tmp_path: Path) -> None:
    odd = [None, [], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0, 0.0], [3.0, 0.0]]
    make_night(tmp_path / "scores", embedded_rows(odd))
    done = analyse(tmp_path)
    assert done.found.facts["num_without_embedding"] == 5
    assert [row["id"] for row in members(done)] == ["5", "6"]


def test_many_equal_rows_are_one_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = duplicates_module.close_pairs

    def count(left: Any, right: Any, threshold: float) -> Any:
        seen.append(len(left) * len(right))
        return real(left, right, threshold)

    monkeypatch.setattr(duplicates_module, "close_pairs", count)
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0]] * 300 + [[0.0, 1.0]]))
    done = analyse(tmp_path, threshold=1.0)
    assert (done.found.facts["num_groups"], done.found.facts["num_members"]) == (1, 300)
    assert seen == [4]


def test_what_rounding_could_decide_is_decided_exactly() -> None:
    rng = np.random.default_rng(3)
    one = rng.normal(size=(400, 64))
    one = (one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32)
    other = (one + 0.1 * rng.normal(size=one.shape)).astype(np.float32)
    other /= np.linalg.norm(other, axis=1, keepdims=True).astype(np.float32)
    wide = [matrix.astype(np.float64) for matrix in (one, other)]
    lengths = [np.linalg.norm(matrix, axis=1) for matrix in wide]
    exact = (wide[0] @ wide[1].T) / np.outer(*lengths)
    threshold = float(np.sort(exact.ravel())[-200])  # one of the cosines themselves
    pairs = set(zip(*(side.tolist() for side in close_pairs(one, other, threshold - 1e-15)), strict=True))
    assert pairs == set(zip(*(side.tolist() for side in np.nonzero(exact >= threshold - 1e-15)), strict=True))
    assert len(pairs) == 200


def test_vectors_of_several_models_are_refused(tmp_path: Path) -> None:
    rows = embedded_rows([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    make_night(tmp_path / "scores", [{**row, "model_version": f"m{index % 2}"} for index, row in enumerate(rows)])
    with pytest.raises(CorpusError, match=r"vectors of 2 models in 'embedding' \(model_version m0, m1\)") as refused:
        analyse(tmp_path)
    assert "vanished: drop" in str(refused.value)
    assert not (tmp_path / "found").exists()
