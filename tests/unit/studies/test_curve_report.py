from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from pipeline.studies.curve import CurvePoint, PreparedCurve
from pipeline.studies.curve_report import describe_curve, read_points, write_curve
from tests.unit.studies.studying import make_curve, write_splits


def store_all_but_one(curve: PreparedCurve) -> None:
    """Accuracy rises with fraction and seed; the last cell, tfidf on half with seed 2, is missing."""
    for cell in curve.cells[:-1]:
        accuracy = 0.5 + 0.2 * cell.fraction + 0.02 * cell.seed
        rows = round(60 * cell.fraction)
        curve.store.write(
            cell.fingerprint, CurvePoint(cell.method, cell.fraction, rows, cell.seed, accuracy, 0.25, 2.0)
        )


def test_points_come_by_method_fraction_and_seed(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    curve = make_curve(tmp_path, encoder_directory)
    store_all_but_one(curve)
    points = read_points(curve)
    assert len(points) == 19
    assert [(p.method, p.fraction, p.seed) for p in points[:4]] == [
        ("finetune", 0.5, 1),
        ("finetune", 0.5, 2),
        ("finetune", 1.0, 1),
        ("finetune", 1.0, 2),
    ]


def test_three_files_hold_what_is_known_so_far(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    curve = make_curve(tmp_path, encoder_directory)
    assert write_curve(curve) == ""
    assert not (tmp_path / "curve").exists()
    store_all_but_one(curve)
    text = write_curve(curve)
    assert "1 of 20 cells are missing" in text
    assert (tmp_path / "curve" / "curve.md").read_text() == text
    table = pq.read_table(tmp_path / "curve" / "curve.parquet")
    assert table.column_names == ["method", "fraction", "num_rows", "seed", "accuracy", "macro_f1", "seconds"]
    assert table.num_rows == 19
    assert (tmp_path / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_shows_mean_and_deviation_and_leaves_gaps() -> None:
    points = [
        CurvePoint("cnn", 0.1, 90, 1, 0.5, 0.25, 3.4),
        CurvePoint("cnn", 0.1, 90, 2, 0.6, 0.25, 3.4),
        CurvePoint("tfidf", 1.0, 900, 1, 0.7, 0.25, 3.4),
    ]
    accuracy, macro_f1, seconds = describe_curve(points, 3).split("## ")[1:]
    assert accuracy.splitlines()[2:] == [
        "| method | 10 % (90 rows) | 100 % (900 rows) |",
        "| ------ | -------------: | ---------------: |",
        "| cnn    |  0.550 ± 0.071 |                  |",
        "| tfidf  |                |            0.700 |",
        "",
    ]
    assert "0.250 ± 0.000" in macro_f1
    assert "3 ± 0" in seconds
    assert "missing" not in seconds
