from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.errors import CorpusError, ModelError, OutputTakenError, SpecError
from pipeline.finetune.prepare import PreparedHead, PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.worker import token_cache_job
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.tiny import make_bundle, make_encoder, make_rows, write_corpus


@pytest.fixture
def place(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    """A spec's raw fields, with data that is there."""
    write_corpus(tmp_path / "train")
    write_corpus(tmp_path / "validation", num_files=1, seed=1)
    return {
        "task": "text-classification",
        "model": str(encoder_directory),
        "data": {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")},
        "output": str(tmp_path / "out" / "bundle"),
    }


def prepare(raw: dict[str, Any], **changes: Any) -> PreparedTraining:
    return prepare_training(FinetuneSpec.model_validate({**raw, **changes}), "spec.yaml")


def prepare_only(raw: dict[str, Any], **changes: Any) -> PreparedHead:
    (head,) = prepare(raw, **changes).heads
    return head


def test_preparing_checks_everything_and_writes_nothing(place: dict[str, Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    run = prepare(place)
    (head,) = run.heads
    assert (head.name, head.train.num_rows, head.validation and head.validation.num_rows) == ("", 60, 20)
    assert run.num_rows == 60
    assert run.finished_bundles() is None
    assert sorted(tmp_path.rglob("*")) == before


def test_the_run_is_the_same_wherever_it_runs(place: dict[str, Any], tmp_path: Path) -> None:
    name = prepare(place).run_name
    for changes in (
        {"compute": {"workers": 4, "batch_tokens": 99}},
        {"checkpoint": {"every_s": 1.0, "keep": 9}},
        {"output": str(tmp_path / "elsewhere")},
        {"work": str(tmp_path / "work")},
    ):
        assert prepare(place, **changes).run_name == name


def test_a_model_elsewhere_is_fetched_by_every_node(
    place: dict[str, Any], encoder_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"memory:///models/{tmp_path.name}"
    for file in encoder_directory.iterdir():
        Storage().upload(file, join_uri(model, file.name))
    run = prepare(place, model=model)
    here = Path(run.encoder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another node"))
    there = Path(pickle.loads(pickle.dumps(run)).encoder)
    assert there.is_relative_to(tmp_path / "another node")
    assert not here.is_relative_to(tmp_path / "another node")
    assert sorted(path.name for path in here.iterdir()) == sorted(path.name for path in there.iterdir())
    job = token_cache_job(run, run.heads[0], 1)
    shutil.rmtree(here)
    assert job.build().process(run.heads[0].train.shards[0])["num_rows"].to_pylist() == [60]


def test_a_relative_model_is_found_by_workers_that_start_elsewhere(
    place: dict[str, Any], encoder_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(encoder_directory.parent)
    run = prepare(place, model=encoder_directory.name)
    monkeypatch.chdir(tmp_path)
    assert run.encoder == str(encoder_directory)


def test_another_recipe_model_or_data_is_another_run(place: dict[str, Any], tmp_path: Path) -> None:
    train = place["data"]["train"]
    other_model = make_encoder(tmp_path / "other", seed=3)
    variants = [
        prepare(place),
        prepare(place, training={"epochs": 4}),
        prepare(place, training={"seed": 18}),
        prepare(place, pooling="cls"),
        prepare(place, compute={"precision": "bf16"}),
        prepare(place, model=other_model),
        prepare(place, data={"train": train}),
        prepare(place, data={"train": train, "validation": train}),
    ]
    assert len({run.run_name for run in variants}) == len(variants)


def test_the_token_cache_is_shared_by_recipes_and_not_by_tokenizers(place: dict[str, Any]) -> None:
    cache = prepare_only(place).cache_uri
    assert prepare_only(place, training={"epochs": 9, "seed": 3}).cache_uri == cache
    assert prepare_only(place, max_length=64).cache_uri != cache
    assert prepare_only(place, data={"train": place["data"]["train"], "label": "id"}).cache_uri != cache


@pytest.mark.parametrize(
    "changed",
    [{"truncation_side": "left"}, {"do_lower_case": False}, {"model_input_names": ["input_ids", "attention_mask"]}],
    ids=lambda changed: next(iter(changed)),
)
def test_the_token_cache_is_of_what_the_tokenizer_does(
    place: dict[str, Any], tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Whatever file of the model says it."""
    other = tmp_path / "other"
    shutil.copytree(place["model"], other)
    (other / "README.md").write_text("tokenises alike", encoding="utf-8")
    assert prepare_only(place, model=str(other)).cache_uri == prepare_only(place).cache_uri
    settings = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, **changed}), encoding="utf-8")
    assert prepare_only(place, model=str(other)).cache_uri != prepare_only(place).cache_uri


def test_a_bundle_of_this_very_run_is_recognised(place: dict[str, Any]) -> None:
    run = prepare(place)
    make_bundle(place["output"], run_fingerprint="f" * 64)
    assert run.finished_bundles() is None
    info = make_bundle(place["output"], run_fingerprint=run.fingerprint)
    assert run.finished_bundles() == {"": info}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"task": "summarise"}, SpecError, "task: 'summarise' is unknown"),
        ({"model": "/no/where"}, ModelError, "no such directory"),
        ({"data": {"train": "/no/where"}}, CorpusError, "nothing there"),
    ],
)
def test_wrong_fields_are_found(place: dict[str, Any], changes: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        prepare(place, **changes)


def test_columns_go_by_the_names_in_the_spec(place: dict[str, Any]) -> None:
    train = place["data"]["train"]
    data = {"train": train, "inputs": {"text": "id"}, "label": "text"}
    assert prepare_only(place, data=data).train.columns.needed == ("id", "text")
    with pytest.raises(CorpusError, match=r"no column 'body', 'stars'"):
        prepare(place, data={"train": train, "inputs": {"text": "body"}, "label": "stars"})


def test_the_output_must_be_free(place: dict[str, Any]) -> None:
    output = Path(place["output"])
    output.mkdir(parents=True)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputTakenError, match=r"first: .*notes\.txt"):
        prepare(place)


def test_work_goes_beside_the_output_unless_told(place: dict[str, Any]) -> None:
    assert prepare(place).spec.work_uri == f"{place['output']}.work"
    assert prepare(place, work="/scratch/run").spec.work_uri == "/scratch/run"


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"max_length": 24}, False),
        ({"max_length": 24, "long_text": "window"}, True),
        ({"max_length": 24, "long_text": "window", "stride": 12}, False),
        ({"max_length": 24, "task": "question-answering"}, True),
    ],
)
def test_the_stride_must_fit_only_where_there_are_windows(
    place: dict[str, Any], changes: dict[str, Any], is_refused: bool
) -> None:
    raw = {**place, **changes}
    if is_refused:
        with pytest.raises(ValidationError, match="stride 32 is more than half of max_length 24"):
            FinetuneSpec.model_validate(raw)
    else:
        assert FinetuneSpec.model_validate(raw).max_length == 24


def test_classes_that_validation_never_shows_are_said(place: dict[str, Any], tmp_path: Path) -> None:
    assert prepare(place).remarks == []
    held_out = make_rows(20, 1)
    pq.write_table(held_out.filter(pc.not_equal(held_out["label"], "neutral")), tmp_path / "some.parquet")
    data = {**place["data"], "validation": str(tmp_path / "some.parquet")}
    assert prepare(place, data=data).remarks == ["validation never shows: neutral"]
    heads = {"tone": {"task": place["task"], "data": data}}
    several = {name: place[name] for name in ("model", "output")}
    assert prepare(several, heads=heads).remarks == ["validation of tone never shows: neutral"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"freeze_layers": 7}, r"training\.freeze_layers"),
        ({"sampling": {"angry": 2}}, r"training\.sampling\.angry"),
        ({"keep_best": "f2"}, r"training\.keep_best"),
        ({"masking": {"share": 0.3}}, r"training\.masking: is set, and no head guesses hidden tokens"),
    ],
)
def test_recipes_are_checked_before_anything_starts(place: dict[str, Any], recipe: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prepare(place, training=recipe)
