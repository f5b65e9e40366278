"""What others wrote (names of files, labels, records, model directories, specs) stays text, and in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.evaluation_printing import print_evaluation
from jobs.session import printable
from pipeline.config import load_spec
from pipeline.encoder.bundle import resolve_encoder
from pipeline.encoder.model import load_network
from pipeline.errors import ModelError, SpecError
from pipeline.inference.spec import ScoreSpec
from pipeline.storage import Storage, StoredObject
from pipeline.tasks.base import Confusion, Evaluation
from tests.tiny import make_encoder, make_rows, write_corpus
from tests.unit.inference.scoring import prepared
from tests.unit.jobs.command_line import run_command
from tests.unit.output.records import done_record


@dataclass(frozen=True)
class OthersStorage(Storage):
    """A remote model directory, and where its objects were downloaded to."""

    names: tuple[str, ...] = ()
    written: list[Path] = field(default_factory=list)

    def list_objects(self, uri: str) -> list[StoredObject]:
        return [StoredObject(f"{uri}/{name}", 1, "e") for name in self.names]

    def download(self, uri: str, target: Path) -> None:
        self.written.append(target)


@pytest.mark.parametrize("name", ["../../evil.json", "a/../../evil.safetensors"])
def test_a_remote_model_writes_nothing_outside_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    storage = OthersStorage(names=("config.json", name))
    with pytest.raises(ModelError, match="whose name leads elsewhere"):
        resolve_encoder("s3://bucket/model", storage)
    assert storage.written == []


def test_a_directory_that_names_another_model_is_refused(tmp_path: Path) -> None:
    for name, seed in (("asked", 0), ("other", 5)):
        make_encoder(tmp_path / name, seed=seed)
    content = {"base_model_name_or_path": str(tmp_path / "other"), "peft_type": "LORA", "target_modules": ["query"]}
    (tmp_path / "asked" / "adapter_config.json").write_text(json.dumps(content))
    for load in (
        lambda: resolve_encoder(str(tmp_path / "asked"), Storage()),
        lambda: load_network(tmp_path / "asked", "AutoModel"),
    ):
        with pytest.raises(ModelError, match="holds an adapter") as caught:
            load()
        assert "merge_and_unload" in caught.value.remedy


TAG = '!!python/object/apply:os.system ["touch SENTINEL"]'


def test_tags_of_yaml_make_no_object(tmp_path: Path) -> None:
    tag = TAG.replace("SENTINEL", str(tmp_path / "ran"))
    path = tmp_path / "spec.yaml"
    path.write_text(f"bundle: /b\ncorpus: {{uri: {tag}}}\noutput: {{uri: /o}}\n")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(path, ScoreSpec)
    path.write_text("bundle: /b\ncorpus: {uri: /c}\noutput: {uri: /o}\n")
    with pytest.raises(SpecError, match="is not YAML"):
        load_spec(path, ScoreSpec, [f"output.uri={tag}"])
    assert not (tmp_path / "ran").exists()


def test_a_message_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\udce9\n\u00e9 \U0001f600") == (
        "a\\x1b[31mb\\x07\\u202ec\\udce9\n\u00e9 \U0001f600"
    )


def test_a_file_with_a_name_that_steers_the_terminal_is_told_without_it(bundle_directory: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    (tmp_path / "corpus" / "\x1b[2Jgone.parquet").write_bytes(b"x")
    spec = {"bundle": str(bundle_directory), "corpus": {"uri": str(tmp_path / "corpus")}, "output": {"uri": "o"}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    finished = run_command("plan", str(tmp_path / "spec.yaml"))
    assert finished.exit_code == 2
    assert "\\x1b[2Jgone.parquet: not a readable Parquet file" in finished.stderr
    assert "\x1b" not in finished.stderr


def test_labels_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("[/b]", "[red]", "plain")
    print_evaluation(Evaluation(9, {}, Confusion(labels, np.ones((3, 3), np.int64))), "9 rows")
    text = capsys.readouterr().out
    assert all(text.count(label) == 2 for label in labels)


def test_a_record_that_names_a_file_outside_the_table_does_not_count(bundle_directory: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_files=1)
    pq.write_table(make_rows(20), tmp_path / "outside.parquet")
    run = prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table")
    (shard,) = run.plan.shards
    size = (tmp_path / "outside.parquet").stat().st_size
    run.ledger.claim(done_record(shard.name, path="../outside.parquet", size_bytes=size, num_scored_rows=20))
    again = prepared(bundle_directory, tmp_path / "corpus", tmp_path / "table")
    assert (again.plan.stale, len(again.plan.pending)) == ((shard.name,), 1)
