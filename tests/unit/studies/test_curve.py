from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.extras as extras
from pipeline.config import parse_spec
from pipeline.errors import CorpusError, InputError, SeveralErrors, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.studies.curve import CurveCell, PreparedCurve
from pipeline.studies.spec import CurveSpec
from tests.unit.studies.studying import curve_raw, make_curve, write_splits


@pytest.fixture
def curve(tmp_path: Path, encoder_directory: Path) -> PreparedCurve:
    write_splits(tmp_path)
    return make_curve(tmp_path, encoder_directory)


def names_of(curve: PreparedCurve) -> dict[str, str]:
    return {cell.name: cell.fingerprint for cell in curve.cells}


def cell_named(curve: PreparedCurve, name: str) -> CurveCell:
    (cell,) = [cell for cell in curve.cells if cell.name == name]
    return cell


def test_every_method_fraction_and_seed_is_a_cell_and_large_ones_come_first(curve: PreparedCurve) -> None:
    names = [cell.name for cell in curve.cells]
    assert len(set(names)) == len(names) == 5 * 2 * 2
    assert names[:2] == ["finetune 1 seed 1", "finetune 1 seed 2"]
    assert names[-1] == "tfidf 0.5 seed 2"
    assert len(set(names_of(curve).values())) == len(names)


def test_preparing_writes_nothing(curve: PreparedCurve) -> None:
    assert not Path(curve.spec.output).exists()


@pytest.mark.parametrize(
    ("changes", "methods"),
    [
        ({"scratch": {"dropout": 0.1}}, {"bilstm", "cnn"}),
        ({"cpus_per_cell": 2}, set()),
        ({"compute": {"precision": "bf16", "device": "cpu"}}, {"finetune", "frozen"}),
    ],
)
def test_a_cell_is_done_again_when_what_decides_it_changes(
    changes: dict[str, Any], methods: set[str], curve: PreparedCurve, tmp_path: Path, encoder_directory: Path
) -> None:
    before, after = names_of(curve), names_of(make_curve(tmp_path, encoder_directory, **changes))
    assert {name.split()[0] for name in before if before[name] != after[name]} == methods


@pytest.mark.parametrize(
    ("field", "value", "methods"),
    [
        ("training", {"learning_rate": 1e-3}, {"finetune"}),
        ("max_length", 16, {"finetune", "frozen", "bilstm", "cnn"}),
        ("pooling", "cls", {"finetune", "frozen"}),
        ("checkpoint", {"keep": 5}, set()),
    ],
)
def test_only_cells_that_a_training_field_decides_are_done_again(
    field: str, value: object, methods: set[str], curve: PreparedCurve, tmp_path: Path, encoder_directory: Path
) -> None:
    block = {**curve_raw(tmp_path, encoder_directory)["finetune"], field: value}
    before, after = names_of(curve), names_of(make_curve(tmp_path, encoder_directory, finetune=block))
    assert {name.split()[0] for name in before if before[name] != after[name]} == methods


def test_other_rows_are_other_cells(curve: PreparedCurve, tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path, num_rows=63)
    assert not set(names_of(curve).values()) & set(names_of(make_curve(tmp_path, encoder_directory)).values())


@pytest.mark.parametrize("method", ["frozen", "bilstm", "cnn", "tfidf"])
def test_a_cell_learns_and_keeps_its_figures(method: str, curve: PreparedCurve) -> None:
    cell = cell_named(curve, f"{method} 1 seed 1")
    said = cell.run(num_threads=1)
    point = curve.store.read(cell.fingerprint)
    assert point is not None
    assert (point.method, point.fraction, point.num_rows, point.seed) == (method, 1.0, 60, 1)
    assert point.accuracy > 0.6  # chance is a third
    assert said == f"accuracy {point.accuracy:.3f}"
    assert point.seconds > 0


def test_the_fine_tuned_cell_is_what_finetune_and_evaluate_give(curve: PreparedCurve, tmp_path: Path) -> None:
    cell = cell_named(curve, "finetune 0.5 seed 2")
    cell.run(num_threads=1)
    point = curve.store.read(cell.fingerprint)
    subset = tmp_path / "curve" / "subsets" / "fraction-0.5-seed-2.parquet"
    rows = pq.read_table(subset)
    everything = pq.read_table(tmp_path / "train.parquet")
    assert rows.num_rows == 30
    assert set(rows["text"].to_pylist()) <= set(everything["text"].to_pylist())

    block = {**curve.spec.finetune, "training": {**curve.spec.finetune["training"], "seed": 2}}
    raw = {
        **block,
        "task": "text-classification",
        "data": {"train": str(subset)},
        "output": str(tmp_path / "bundle"),
        "compute": curve.spec.compute.model_dump(),
    }
    train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)
    asked = {
        "bundle": raw["output"],
        "corpus": {"uri": str(tmp_path / "test.parquet")},
        "compute": curve.spec.compute.model_dump(),
    }
    expected = evaluate_alone(prepare_evaluation(parse_spec(asked, EvaluateSpec, "spec")), num_threads=1).metrics
    assert point is not None
    assert point.accuracy == pytest.approx(expected["accuracy"])
    assert point.macro_f1 == pytest.approx(expected["macro_f1"])


def test_a_class_that_the_fraction_lacks_counts_as_wrong(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    curve = make_curve(tmp_path, encoder_directory, fractions=[2 / 60])
    for method in ("finetune", "tfidf"):
        cell = cell_named(curve, f"{method} 0.0333333 seed 1")
        cell.run(num_threads=1)
        point = curve.store.read(cell.fingerprint)
        assert point is not None
        assert point.num_rows == 2
        assert point.accuracy <= 2 / 3


def test_a_missing_extra_is_said_before_anything_else(
    tmp_path: Path, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(
        InputError, match=r"needs scikit-learn, not installed here\n  -> pip install 'bertmill\[studies"
    ):
        make_curve(tmp_path, encoder_directory)


def test_missing_rows_of_both_kinds_are_said_together(tmp_path: Path, encoder_directory: Path) -> None:
    with pytest.raises(SeveralErrors, match=r"(?s)train.parquet.*test.parquet"):
        make_curve(tmp_path, encoder_directory)


def test_a_fraction_of_less_than_two_rows_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    with pytest.raises(SpecError, match=r"fractions: 0\.01 of 60 rows is 1 rows; expected two rows or more"):
        make_curve(tmp_path, encoder_directory, fractions=[0.01])


def test_a_test_label_that_is_never_trained_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["neutral", "mixed"]}), tmp_path / "test.parquet")
    with pytest.raises(CorpusError, match=r"data\.test holds labels that data.train never has: 'mixed'"):
        make_curve(tmp_path, encoder_directory)


def test_soft_labels_are_refused(tmp_path: Path, encoder_directory: Path) -> None:
    rows = pa.table({"text": ["a", "b"], "label": [{"x": 0.5, "y": 0.5}, {"x": 1.0, "y": 0.0}]})
    for name in ("train", "test"):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    with pytest.raises(SpecError, match=r"data\.label: holds probabilities; expected one label a row"):
        make_curve(tmp_path, encoder_directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": [0.1, 0.1]}, "a value stands there twice"),
        ({"fractions": [0.0]}, "greater than 0"),
        ({"methods": ["svm"]}, "methods.0: holds 'svm'"),
        ({"seeds": []}, "at least 1 in it"),
        ({"data": {"train": "/a/b", "test": "/c"}, "output": "/a"}, "output overlaps with /a/b"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(curve_raw(tmp_path, tmp_path, **changes), CurveSpec, "study.yaml")


def test_what_the_study_fills_in_is_refused(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    block = {"model": str(encoder_directory), "data": {"train": "x"}}
    with pytest.raises(SpecError, match=r"study\.yaml: finetune: 1 problem\n- data: has no place in a study"):
        make_curve(tmp_path, encoder_directory, finetune=block)


def test_windows_beside_methods_that_truncate_are_refused(tmp_path: Path, encoder_directory: Path) -> None:
    write_splits(tmp_path)
    block = {**curve_raw(tmp_path, encoder_directory)["finetune"], "long_text": "window", "stride": 8}
    with pytest.raises(
        SpecError, match=r"finetune\.long_text: is window, beyond max_length nothing is read by: frozen"
    ):
        make_curve(tmp_path, encoder_directory, finetune=block, methods=["finetune", "frozen", "tfidf"])
    make_curve(tmp_path, encoder_directory, finetune=block, methods=["finetune", "tfidf"])
