"""The two studies as commands, up to where Ray would start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline.extras as extras
from pipeline.studies.curve import CurvePoint
from pipeline.studies.suite import SuiteResult
from tests.unit.jobs.command_line import assert_refused, run_command, write_spec
from tests.unit.studies.studying import curve_raw, make_curve, make_suite, suite_raw, write_splits


@pytest.fixture(autouse=True)
def _splits(tmp_path: Path) -> None:
    write_splits(tmp_path)


def test_a_finished_learning_curve_is_only_written_again(tmp_path: Path, encoder_directory: Path) -> None:
    curve = make_curve(tmp_path, encoder_directory)
    for cell in curve.cells:
        curve.store.write(
            cell.fingerprint, CurvePoint(cell.method, cell.fraction, 30, cell.seed, 0.5 + cell.seed / 8, 0.5, 1.0)
        )
    finished = run_command("learning-curve", write_spec(tmp_path / "spec.yaml", curve_raw(tmp_path, encoder_directory)))
    assert finished.exit_code == 0, finished.stderr
    assert "20 cells, of which 20 are already done" in finished.stdout
    assert "0.688 ± 0.088" in finished.stdout
    assert pq.read_table(tmp_path / "curve" / "curve.parquet").num_rows == 20


def test_a_finished_suite_is_only_written_again(tmp_path: Path, encoder_directory: Path) -> None:
    for cell in make_suite(tmp_path, encoder_directory).cells:
        cell.store.write(cell.fingerprint, SuiteResult(30, {"macro_f1": 0.5 + (cell.seed or 0) / 8}, 3.0, 1_500.0))
    finished = run_command("suite", write_spec(tmp_path / "spec.yaml", suite_raw(tmp_path, encoder_directory)))
    assert finished.exit_code == 0, finished.stderr
    assert "2 cells, of which 2 are already done" in finished.stdout
    assert "0.688 ± 0.088" in finished.stdout
    assert "1,500" in finished.stdout
    assert pq.read_table(tmp_path / "suite" / "suite.parquet").num_rows == 2


def test_a_missing_extra_is_refused_with_its_remedy(
    tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    spec = write_spec(tmp_path / "spec.yaml", curve_raw(tmp_path, encoder_directory))
    expected = "needs scikit-learn and matplotlib, not installed here\n  -> pip install 'bertmill[studies]'"
    assert_refused(run_command("learning-curve", spec), expected)


@pytest.mark.parametrize("job", ["learning-curve", "suite"])
def test_rows_that_are_not_there_are_refused(job: str, tmp_path: Path, encoder_directory: Path) -> None:
    make_raw: Any = curve_raw if job == "learning-curve" else suite_raw
    spec = write_spec(tmp_path / "spec.yaml", make_raw(tmp_path, encoder_directory))
    (tmp_path / "train.parquet").unlink()
    assert_refused(run_command(job, spec), "train.parquet", "nothing there")
