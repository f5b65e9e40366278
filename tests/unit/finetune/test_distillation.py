"""A teacher's scored table teaches a smaller student: from bundle to bundle, in one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable
from transformers import BertModel

from pipeline.config import parse_spec
from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import CorpusError, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.prepare import prepare_run
from pipeline.inference.publish import publish_run
from pipeline.storage import Storage
from tests.tiny import make_bundle, make_encoder, make_rows, make_tokenizer, tiny_config
from tests.unit.inference.scoring import prepared, score_all, score_spec

NOT_AT_ALL = {"learning_rate": 1e-9, "head_start": "random"}


def score(root: Path, bundle: Path, name: str, num_rows: int, seed: int) -> str:
    """A published table of some texts' scores and embeddings."""
    (root / name).mkdir()
    pq.write_table(make_rows(num_rows, seed).select(["text"]), root / name / "texts.parquet")
    table = root / f"{name}-table"
    run = prepared(bundle, root / name, table, corpus={"keep": ("text",)}, output={"embedding": True})
    publish_run(run, score_all(run), "run-1", 1.0)
    return str(table)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher, its tables of unlabelled texts, and a student half as wide that was never trained."""
    root = tmp_path_factory.mktemp("taught")
    make_encoder(root / "encoder")
    pq.write_table(make_rows(150, 1), root / "labelled.parquet")
    raw = {
        "task": "text-classification",
        "model": str(root / "encoder"),
        "data": {"train": str(root / "labelled.parquet")},
        "output": str(root / "teacher"),
        # so that it embeds in its own way
        "training": {"learning_rate": 1e-3, "epochs": 8, "head_start": "random", "head_reads": "first"},
    }
    train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)
    score(root, root / "teacher", "unlabelled", 240, seed=2)
    score(root, root / "teacher", "held-out", 90, seed=3)
    make_tokenizer(root / "student")
    config = tiny_config()
    config.update({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        BertModel(config).save_pretrained(root / "student")
    return root


def learn(taught: Path, output: Path, task: str, model: str = "student", **changes: Any) -> PreparedTraining:
    """A student's training from the tables."""
    training = {"learning_rate": 1e-2, "epochs": 4, "batch_rows": 16, **changes.pop("training", {})}
    tables = {"train": str(taught / "unlabelled-table"), "validation": str(taught / "held-out-table")}
    raw = {
        "task": task,
        "model": str(taught / model),
        "data": {**tables, **changes.pop("data", {})},
        "output": str(output),
        "training": training,
    }
    return prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec")


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_smaller_student_comes_to_agree_with_its_teacher(taught: Path, tmp_path: Path, temperature: float) -> None:
    teacher = {"data": {"teacher": str(taught / "teacher")}}
    untaught = learn(taught, tmp_path / "untaught", "text-classification", **teacher, training=NOT_AT_ALL)
    before = train_alone(untaught, num_threads=1)[""].metrics["accuracy"]
    run = learn(
        taught,
        tmp_path / "taught",
        "text-classification",
        **teacher,
        training={"temperature": temperature, "learning_rate": 4e-3, "epochs": 8},
    )
    info = train_alone(run, num_threads=1)[""]
    assert info.metrics["accuracy"] > max(0.6, before + 0.2)  # chance is a third
    assert info.labels == read_bundle_info(str(taught / "teacher"), Storage()).labels
    assert info.task == "text-classification"


@pytest.mark.parametrize("model", ["student", "encoder"])
def test_an_encoder_learns_to_embed_as_its_teacher_does(taught: Path, tmp_path: Path, model: str) -> None:
    untaught = learn(taught, tmp_path / "untaught", "distil-embedding", model, training={"learning_rate": 1e-9})
    before = train_alone(untaught, num_threads=1)[""].metrics
    info = train_alone(learn(taught, tmp_path / "taught", "distil-embedding", model), num_threads=1)[""]
    assert info.task == "embedding"
    assert info.metrics["cka"] > max(0.7, before["cka"] + 0.1)
    assert ("cosine" in info.metrics) == (model == "encoder")  # of the teacher's width
    if model == "encoder":
        assert info.metrics["cosine"] > max(0.8, before["cosine"] + 0.1)


def unversioned(taught: Path, directory: Path) -> dict[str, str]:
    """The rows of both tables, which no longer say who scored them."""
    files = {}
    for name, table in (("train", "unlabelled-table"), ("validation", "held-out-table")):
        files[name] = str(directory / f"{name}.parquet")
        rows = DeltaTable(str(taught / table)).to_pyarrow_table()
        pq.write_table(rows.drop_columns(["model_version"]), files[name])
    return files


def test_another_teacher_is_another_run(taught: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "other", ("a", "b", "c"))
    rows = unversioned(taught, tmp_path)
    runs = [
        learn(taught, tmp_path / "out", "text-classification", data={**rows, "teacher": str(bundle)})
        for bundle in (taught / "teacher", tmp_path / "other")
    ]
    assert runs[0].fingerprint != runs[1].fingerprint


def test_what_a_table_was_before_is_not_learned_from(taught: Path, tmp_path: Path) -> None:
    table = taught / "held-out-table"
    stray = table / "run_date=2026-11-23" / "given-up.parquet"
    (live,) = DeltaTable(str(table)).file_uris()
    stray.write_bytes(Path(live).read_bytes())
    try:
        run = learn(taught, tmp_path / "out", "distil-embedding")
        assert run.heads[0].validation is not None
        assert run.heads[0].validation.num_rows == 90
        night = {"validation": f"{table}/run_date=2026-11-23"}
        named = learn(taught, tmp_path / "out", "distil-embedding", data=night)
        assert named.fingerprint == run.fingerprint
    finally:
        stray.unlink()


def test_a_night_that_is_not_there_is_refused(taught: Path, tmp_path: Path) -> None:
    wrong = {"train": f"{taught / 'unlabelled-table'}/run_date=2026-11-24"}
    with pytest.raises(CorpusError, match="no night 2026-11-24"):
        learn(taught, tmp_path / "out", "distil-embedding", data=wrong)


def test_a_table_of_several_nights_needs_one_named(taught: Path, tmp_path: Path) -> None:
    shutil.copytree(taught / "held-out-table", tmp_path / "table")
    again = {"corpus": {"keep": ("text",)}, "output": {"embedding": True}}
    run = prepare_run(score_spec(taught / "teacher", taught / "held-out", tmp_path / "table", **again), "2026-11-24")
    publish_run(run, score_all(run, "run-2"), "run-2", 1.0)
    with pytest.raises(CorpusError, match="a table of 2 nights"):
        learn(taught, tmp_path / "out", "distil-embedding", data={"train": str(tmp_path / "table")})


def test_scores_without_their_labels_are_refused(taught: Path, tmp_path: Path) -> None:
    unnamed = {"label": "class_scores", "validation": None}
    with pytest.raises(CorpusError, match=r"name the bundle as data\.teacher"):
        learn(taught, tmp_path / "out", "text-classification", data=unnamed)


def test_a_teacher_of_other_labels_is_told_by_every_row(taught: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "other", ("yes", "no"))
    data = {**unversioned(taught, tmp_path), "teacher": str(tmp_path / "other")}
    run = learn(taught, tmp_path / "out", "text-classification", data=data)
    with pytest.raises(CorpusError, match="soft label is not a distribution"):
        train_alone(run, num_threads=1)


def other_scores(taught: Path, directory: Path) -> str:
    """A file of the held-out rows as another bundle of the same labels would have scored them."""
    rows = DeltaTable(str(taught / "held-out-table")).to_pyarrow_table()
    versions = pa.array(["another"] * rows.num_rows)
    path = directory / "other-scores.parquet"
    pq.write_table(rows.set_column(rows.column_names.index("model_version"), "model_version", versions), path)
    return str(path)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_scores_of_another_bundle_than_the_teacher_are_refused(taught: Path, tmp_path: Path, split: str) -> None:
    data = {"teacher": str(taught / "teacher"), split: other_scores(taught, tmp_path)}
    own = read_bundle_info(str(taught / "teacher"), Storage()).model_version
    message = rf"data\.{split}: column 'model_version' holds another(.|\n)*{own}, the model_version of data\.teacher"
    with pytest.raises(SpecError, match=message):
        learn(taught, tmp_path / "out", "text-classification", data=data)


def test_scores_beside_those_of_another_bundle_have_a_version_of_their_own(taught: Path, tmp_path: Path) -> None:
    rows = DeltaTable(str(taught / "held-out-table")).to_pyarrow_table()
    rows = rows.rename_columns({"class_scores": "large_class_scores", "model_version": "large_model_version"})
    path = str(tmp_path / "two.parquet")
    pq.write_table(rows.append_column("model_version", pa.array(["another"] * rows.num_rows)), path)
    named = {"train": path, "validation": path, "label": "large_class_scores"}
    learn(taught, tmp_path / "out", "text-classification", data={**named, "teacher": str(taught / "teacher")})
    make_bundle(tmp_path / "other", ("a", "b", "c"))
    with pytest.raises(SpecError, match="column 'large_model_version' holds"):
        learn(taught, tmp_path / "out", "text-classification", data={**named, "teacher": str(tmp_path / "other")})


def test_embeddings_of_two_bundles_are_refused(taught: Path, tmp_path: Path) -> None:
    other = other_scores(taught, tmp_path)
    learn(taught, tmp_path / "out", "distil-embedding", data={"train": other, "validation": other})
    with pytest.raises(SpecError, match=r"data: column 'model_version' holds(.|\n)*rows that one bundle scored"):
        learn(taught, tmp_path / "out", "distil-embedding", data={"validation": other})


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("distil-embedding", None, "is given, for task distil-embedding"),
        ("pair-classification", "class_scores", "is a bundle for text-classification"),
    ],
)
def test_a_teacher_of_another_task_is_refused(
    taught: Path, tmp_path: Path, task: str, label: str | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        learn(taught, tmp_path / "out", task, data={"teacher": str(taught / "teacher"), "label": label})


def test_a_temperature_without_a_teacher_is_refused(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"give data\.teacher"):
        learn(taught, tmp_path / "out", "distil-embedding", training={"temperature": 2.0})


def test_embeddings_that_are_none_are_refused(taught: Path, tmp_path: Path) -> None:
    texts = pa.table({"text": ["a film", "a table", "good"], "embedding": [[1.0, 0.0], [0.0], [0.0, 0.0]]})
    pq.write_table(texts, tmp_path / "texts.parquet")
    files = {"train": str(tmp_path / "texts.parquet"), "validation": None}
    run = learn(taught, tmp_path / "out", "distil-embedding", data={**files, "max_bad_fraction": 0.5})
    with pytest.raises(
        CorpusError, match=r"2 of 3 labelled rows cannot be used(.|\n)*row 1: embedding is null, of another"
    ):
        train_alone(run, num_threads=1)
    with pytest.raises(CorpusError, match="embeddings are expected"):
        learn(taught, tmp_path / "out", "distil-embedding", data={**files, "label": "text"})
