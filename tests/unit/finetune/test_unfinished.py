"""An unfinished run goes on with the same recipe, and is not passed over by another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError, OutputTakenError, TrainingError, TransientStorageError
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.unfinished import (
    check_unfinished,
    give_up_unfinished,
    holds_another,
    note_finished,
    note_started,
    noted,
)
from pipeline.storage import Storage
from tests.tiny import make_bundle, make_rows, write_corpus


@pytest.fixture
def place(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    write_corpus(tmp_path / "train", num_files=1)
    return {
        "task": "text-classification",
        "model": str(encoder_directory),
        "data": {"train": str(tmp_path / "train")},
        "output": str(tmp_path / "bundle"),
    }


def prepare(raw: dict[str, Any], **changes: Any) -> PreparedTraining:
    return prepare_training(FinetuneSpec.model_validate({**raw, **changes}), "spec.yaml")


def test_the_same_recipe_goes_on(place: dict[str, Any]) -> None:
    check_unfinished(prepare(place))
    note_started(prepare(place))
    check_unfinished(prepare(place, compute={"workers": 3}, checkpoint={"every_s": 5}))
    assert (Path(place["output"] + ".work") / "unfinished.json").exists()
    assert not holds_another(prepare(place))
    assert holds_another(prepare(place, max_length=64))


@pytest.mark.parametrize("content", ["", '{"ray_version": "2', "[]", "\x80"])
def test_a_damaged_list_of_checkpoints_is_named_with_the_way_out(place: dict[str, Any], content: str) -> None:
    run = prepare(place)
    note_started(run)
    snapshot = Path(run.spec.work_uri) / run.run_name / "checkpoint_manager_snapshot.json"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_text("{}")
    check_unfinished(run)
    snapshot.write_bytes(content.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"checkpoint_manager_snapshot\.json: .* damaged .*\n  -> .*--fresh"):
        check_unfinished(run)
    give_up_unfinished(run)
    check_unfinished(run)
    assert not snapshot.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"epochs": 5}}, r"- training\.epochs was 3 and is 5\n  -> .*--fresh"),
        ({"max_length": 64}, r"- max_length was 128 and is 64\n"),
        (
            {"training": {"seed": 1, "schedule": "cosine"}},
            r"schedule was 'linear' and is 'cosine'\n- training\.seed was",
        ),
        ({"compute": {"precision": "fp32"}}, r"- compute\.precision was 'auto' and is 'fp32'"),
    ],
)
def test_another_recipe_is_refused_by_field(place: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    note_started(prepare(place))
    with pytest.raises(OutputTakenError, match=message):
        check_unfinished(prepare(place, **changes))


def test_another_task_or_other_heads_are_refused_by_field(place: dict[str, Any]) -> None:
    note_started(prepare(place))
    head = {"task": "text-classification", "data": place["data"]}
    several = {name: value for name, value in place.items() if name not in ("task", "data")} | {"heads": {"a": head}}
    with pytest.raises(OutputTakenError, match=r"- heads was \[''\] and is \['a'\]\n- heads\.a\.task was None"):
        check_unfinished(prepare(several))


def test_other_data_are_refused(place: dict[str, Any], tmp_path: Path) -> None:
    note_started(prepare(place))
    pq.write_table(make_rows(9), tmp_path / "train" / "more.parquet")
    with pytest.raises(OutputTakenError, match="- the training or validation files have changed"):
        check_unfinished(prepare(place))


def test_a_finished_run_stands_in_nobodys_way(place: dict[str, Any]) -> None:
    note_started(prepare(place))
    note_finished(prepare(place))
    check_unfinished(prepare(place, max_length=64))
    assert not (Path(place["output"] + ".work") / "unfinished.json").exists()


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_run_that_failed_stands_in_the_way_from_its_first_checkpoint_on(
    place: dict[str, Any], has_checkpoint: bool
) -> None:
    run = prepare(place)
    if has_checkpoint:
        snapshot = Path(run.spec.work_uri) / run.run_name / "checkpoint_manager_snapshot.json"
        snapshot.parent.mkdir(parents=True)
        snapshot.write_text("{}")
    with pytest.raises(CorpusError, match="too many bad rows"), noted(run):
        raise CorpusError("too many bad rows", "mend them")
    assert holds_another(prepare(place, max_length=64)) is has_checkpoint


def test_a_store_that_fails_at_the_end_does_not_hide_what_failed_first(
    place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_storage: Storage, uri: str) -> bytes:
        raise TransientStorageError(f"{uri}: the store gives no answer", "run again")

    def fail() -> None:
        monkeypatch.setattr(Storage, "read_bytes", refuse)
        raise CorpusError("too many bad rows", "mend them")

    run = prepare(place)
    with pytest.raises(CorpusError, match="too many bad rows"), noted(run):
        fail()


def test_a_note_stands_until_the_run_is_done_and_where_it_is_killed(place: dict[str, Any]) -> None:
    run, other = prepare(place), prepare(place, max_length=64)
    with pytest.raises(SystemExit, match="killed"), noted(run):
        raise SystemExit("killed")
    assert holds_another(other)
    with noted(run):
        assert holds_another(other)
    assert not holds_another(other)


def test_a_note_that_outlived_its_run_stands_in_nobodys_way(place: dict[str, Any]) -> None:
    """The driver ended between the bundle and the end of the note."""
    run, other = prepare(place), prepare(place, max_length=64)
    note_started(run)
    make_bundle(run.spec.output, run_fingerprint="f" * 64)
    assert holds_another(other)
    make_bundle(run.spec.output, run_fingerprint=run.fingerprint)
    assert not holds_another(other)
    check_unfinished(other)
    assert give_up_unfinished(other) is None


@pytest.mark.parametrize("content", ["", '{"run_name": "r', "[]", "3", '{"run_name": "run-1"}', "\x80"])
def test_a_damaged_note_is_named_with_the_way_out(place: dict[str, Any], content: str) -> None:
    run = prepare(place)
    note_started(run)
    note = Path(run.spec.work_uri) / "unfinished.json"
    note.write_bytes(content.encode("latin-1"))
    for look in (check_unfinished, holds_another, give_up_unfinished):
        with pytest.raises(TrainingError, match=r"unfinished\.json: .* damaged .*\n  -> remove it"):
            look(run)
    note.unlink()
    check_unfinished(run)


def test_giving_up_deletes_the_run_and_keeps_the_token_cache(place: dict[str, Any]) -> None:
    run, work = prepare(place), Path(place["output"] + ".work")
    assert give_up_unfinished(run) is None
    note_started(run)
    for name in (f"{run.run_name}/checkpoint_1/weights.safetensors", f"{run.run_name}/metrics.jsonl", "token_cache/a"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    other = prepare(place, max_length=64)
    assert give_up_unfinished(other) == run.run_name
    check_unfinished(other)
    assert [path.name for path in work.rglob("*") if path.is_file()] == ["a"]
