"""Several seeds of one training: a bundle for each, one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse_spec
from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.studies.seeds import describe_seeds, write_seeds
from pipeline.studies.tables import spread
from tests.tiny import write_corpus

BASE = {"task": "text-classification", "model": "/m", "output": "/out/b", "data": {"train": "/data/train"}}


def parse(**fields: Any) -> FinetuneSpec:
    return parse_spec({**BASE, **fields}, FinetuneSpec, "spec.yaml")


def info_of(**metrics: float) -> BundleInfo:
    fields: dict[str, Any] = {"task": "t", "inputs": {}, "base_model": "m", "metrics": metrics}
    return BundleInfo(**fields, data_fingerprint="0", run_fingerprint="1")


def test_each_seed_is_a_training_of_its_own_over_one_token_cache() -> None:
    spec = parse(seeds=[1, 2], training={"epochs": 2})
    one, two = (spec.with_seed(seed) for seed in spec.seeds)
    assert (one.training.seed, two.training.seed) == (1, 2)
    assert (one.output, two.output) == ("/out/b/seed-1", "/out/b/seed-2")
    assert one.work_uri == two.work_uri == spec.work_uri == "/out/b.work"
    alone = parse(training={"epochs": 2, "seed": 2}, output="/out/b/seed-2", work="/out/b.work")
    assert two.fingerprint("d", "m") == alone.fingerprint("d", "m") != one.fingerprint("d", "m")
    assert two == alone


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": [1, 2, 1]}, "a seed stands twice in seeds"),
        ({"seeds": [1], "training": {"seed": 17}}, r"seeds and training\.seed: give one of the two"),
        ({"seeds": [-1]}, r"seeds\.0: holds -1"),
    ],
)
def test_seeds_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(**fields)


def test_the_table_has_a_line_for_each_figure_of_each_head() -> None:
    found = {
        seed: {"tone": info_of(accuracy=accuracy), "near": info_of()}
        for seed, accuracy in ((3, 0.5), (4, 0.7), (9, 0.6))
    }
    lines = describe_seeds(found).splitlines()
    assert " ".join(lines[0].split()) == "| figure | all | seed 3 | seed 4 | seed 9 |"
    assert " ".join(lines[2].split()) == "| tone.accuracy | 0.6000 ± 0.1000 | 0.5000 | 0.7000 | 0.6000 |"
    assert len([line for line in lines if line.startswith("|")]) == 3
    assert describe_seeds({1: {"": info_of()}}) == ""


def test_bundles_and_table_of_a_real_training(tmp_path: Path, encoder_directory: Path) -> None:
    rows = str(tmp_path / "rows")
    write_corpus(rows, num_files=2)
    places = {"model": str(encoder_directory), "output": str(tmp_path / "out")}
    compute = {"device": "cpu", "precision": "fp32"}
    data = {"train": rows, "validation": rows}
    spec = parse(**places, data=data, compute=compute, seeds=[1, 2], training={"epochs": 1, "learning_rate": 3e-3})
    found = {seed: train_alone(prepare_training(spec.with_seed(seed), "spec"), num_threads=1) for seed in spec.seeds}
    text = write_seeds(spec, found)
    assert (tmp_path / "out" / "seeds.md").read_text() == text
    losses = [infos[""].metrics["loss"] for infos in found.values()]
    assert losses[0] != losses[1]
    assert f"| {spread(losses).show(4)} |" in text
    for seed in spec.seeds:
        assert (tmp_path / "out" / f"seed-{seed}" / "bundle.json").exists()
    assert prepare_training(spec.with_seed(2), "spec").finished_bundles() == found[2]


def test_without_validation_rows_there_is_no_table(tmp_path: Path) -> None:
    spec = parse(output=str(tmp_path / "out"), seeds=[1])
    assert write_seeds(spec, {1: {"": info_of()}}) == "no validation rows, so no figures over seeds"
    assert not (tmp_path / "out").exists()
