from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SeveralErrors, SpecError
from pipeline.studies.tune import Judged, PreparedTune, TrialRecord
from pipeline.studies.tune_report import write_tune
from tests.unit.studies.studying import make_tune, tune_raw, write_splits


@pytest.fixture(autouse=True)
def _splits(tmp_path: Path) -> None:
    write_splits(tmp_path, num_rows=60)


def run_all(tune: PreparedTune) -> tuple[PreparedTune, list[int]]:
    """Every pending trial, one after the other; also the numbers of the evaluations that were told."""
    told: list[int] = []
    for trial in tune.pending:
        trial.run(1, lambda judged, count: told.append(count))
    return tune.read_records(), told


def test_trials_train_and_the_best_is_told(tmp_path: Path, encoder_directory: Path) -> None:
    finetune = tune_raw(tmp_path, encoder_directory)["finetune"]
    finetune["training"]["head_reads"] = "first"  # of which a random encoder learns more in a dozen steps
    tune = make_tune(tmp_path, encoder_directory, finetune=finetune)
    assert write_tune(tune) == ""
    assert not (tmp_path / "tune").exists()
    tune, told = run_all(tune)
    assert told == [1, 2, 1, 2]  # the third evaluation is the last
    assert tune.best is not None
    assert tune.best.point == {"training.learning_rate": 5e-3}
    best = tune.records[tune.best.number]
    assert [judged.step for judged in best.history] == [4, 8, 12]
    (other,) = (record for record in tune.records.values() if record is not best)
    assert best.metrics["macro_f1"] == best.history[-1].metrics["macro_f1"] > other.metrics["macro_f1"]
    text = write_tune(tune)
    assert [part.strip() for part in text.splitlines()[2].split("|")[1:5]] == [
        str(tune.best.number),
        f"{best.metrics['macro_f1']:.4f}",
        "finished",
        "3",
    ]
    rows = pq.read_table(tmp_path / "tune" / "tune.parquet").to_pylist()
    assert [row["trial"] for row in rows] == [1, 2]
    assert {dict(row["settings"])["training.learning_rate"] for row in rows} == {"0.005", "1e-09"}
    assert (tmp_path / "tune" / "tune.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_only_what_is_new(tmp_path: Path, encoder_directory: Path) -> None:
    space = {"training.learning_rate": {"choice": [5e-3, 1e-9]}, "training.epochs": {"int": [1, 3]}}
    tune, _ = run_all(make_tune(tmp_path, encoder_directory, space=space))
    assert tune.pending == []
    more = make_tune(tmp_path, encoder_directory, space=space, trials=4)
    assert [trial.number for trial in more.pending] == [3, 4]
    assert set(more.records) == {1, 2}
    assert len(make_tune(tmp_path, encoder_directory, space=space, seed=9, trials=6).records) == 2  # all six there are


def test_a_loss_that_explodes_is_a_trials_end_and_not_the_searchs(tmp_path: Path, encoder_directory: Path) -> None:
    space = {"training.learning_rate": {"choice": [1e30, 5e-3]}}
    tune, _ = run_all(make_tune(tmp_path, encoder_directory, space=space))
    states = {trial.point["training.learning_rate"]: tune.records[trial.number].state for trial in tune.trials}
    assert states == {1e30: "diverged", 5e-3: "finished"}
    assert tune.best is not None
    assert tune.best.point["training.learning_rate"] == 5e-3
    assert "Diverged:\n\n- trial " in write_tune(tune)


def test_what_a_scheduler_stopped_counts_for_its_goal_alone(tmp_path: Path, encoder_directory: Path) -> None:
    tune = make_tune(tmp_path, encoder_directory, scheduler="asha")
    first = tune.trials[0]
    stopped = TrialRecord("stopped", {}, [Judged(4, {"macro_f1": 0.9})], 1.0, "", "max macro_f1")
    first.store.write(first.fingerprint, stopped)
    asked: list[dict[str, Any]] = [
        {"scheduler": "asha"},
        {"scheduler": "none"},
        {"scheduler": "asha", "metric": "loss"},
    ]
    found = [make_tune(tmp_path, encoder_directory, **changes) for changes in asked]
    assert [len(again.pending) for again in found] == [1, 2, 2]
    assert found[0].best is None
    assert "|   0.9000 | stopped |" in write_tune(found[0])


@pytest.mark.parametrize(
    ("changes", "goal"),
    [({}, "max macro_f1"), ({"metric": "loss"}, "min loss"), ({"metric": "ece", "mode": "max"}, "max ece")],
)
def test_the_goal_is_the_metrics_own_unless_given(
    changes: dict[str, Any], goal: str, tmp_path: Path, encoder_directory: Path
) -> None:
    assert str(make_tune(tmp_path, encoder_directory, **changes).goal) == goal


def test_embeddings_without_scores_are_compared_as_a_search(tmp_path: Path, encoder_directory: Path) -> None:
    pq.write_table(pa.table({"text_a": ["good"] * 8, "text_b": ["great"] * 8}), tmp_path / "pairs.parquet")
    block = tune_raw(tmp_path, encoder_directory)["finetune"]
    pairs = str(tmp_path / "pairs.parquet")
    block |= {"task": "embedding", "data": {"train": pairs, "validation": pairs}}
    assert str(make_tune(tmp_path, encoder_directory, finetune=block).goal) == "max ndcg@10"


def test_several_tasks_are_compared_by_a_named_one(tmp_path: Path, encoder_directory: Path) -> None:
    block = tune_raw(tmp_path, encoder_directory)["finetune"]
    head = {"task": block.pop("task"), "data": block.pop("data")}
    block["heads"] = {"one": head, "two": head}
    assert str(make_tune(tmp_path, encoder_directory, finetune=block, metric="two.loss").goal) == "min two.loss"
    with pytest.raises(SpecError, match=r"metric: holds 'auto'; expected one of: one.accuracy"):
        make_tune(tmp_path, encoder_directory, finetune=block)


def test_mistakes_of_the_space_are_said_at_once(tmp_path: Path, encoder_directory: Path) -> None:
    names = ("training.learning_rates", "trainings.epochs", "data.train", "storage.region", "pooling.x")
    with pytest.raises(SpecError, match="5 problems") as caught:
        make_tune(tmp_path, encoder_directory, space={name: {"int": [1, 2]} for name in names})
    said = str(caught.value)
    assert "space.training.learning_rates: is not a known field; expected one of: batch_rows" in said
    assert "space.trainings.epochs: is not a known field; expected a dotted field" in said
    assert "space.data.train: is the same for every trial" in said

    space = {
        "training.epochs": {"int": [0, 2]},
        "pooling": {"choice": ["mean", "middle"]},
        "max_length": {"int": [8, 16]},
    }
    with pytest.raises(SeveralErrors, match="2 problems") as several:
        make_tune(tmp_path, encoder_directory, space=space)
    assert "training.epochs: holds 0" in str(several.value)
    assert "pooling: holds 'middle'" in str(several.value)


def test_a_block_and_a_field_of_it_are_not_both_drawn(tmp_path: Path, encoder_directory: Path) -> None:
    space = {"training.lora": {"choice": [None]}, "training.lora.rank": {"int": [2, 4]}}
    with pytest.raises(SpecError, match=r"space\.training\.lora\.rank: is a field of space\.training\.lora"):
        make_tune(tmp_path, encoder_directory, space=space)


def test_mistakes_of_a_recipe_are_said_before_anything_runs(tmp_path: Path, encoder_directory: Path) -> None:
    with pytest.raises(SpecError, match=r"training.reset_layers"):
        make_tune(tmp_path, encoder_directory, space={"training.reset_layers": {"choice": [0, 7]}})
    block = tune_raw(tmp_path, encoder_directory)["finetune"]
    del block["data"]["validation"]
    with pytest.raises(SpecError, match=r"finetune.data.validation: is missing; expected rows to compare trials on"):
        make_tune(tmp_path, encoder_directory, finetune=block)
    with pytest.raises(SpecError, match="output: has no place in a study"):
        make_tune(tmp_path, encoder_directory, finetune={**block, "output": "x"})
    with pytest.raises(SpecError, match="metric: holds 'bleu'; expected one of: auto, accuracy"):
        make_tune(tmp_path, encoder_directory, metric="bleu")
    assert not (tmp_path / "tune").exists()
