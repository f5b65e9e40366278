"""`bertmill schema [JOB]`: the JSON schema of a job's spec."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.analysis.spec import DuplicatesSpec, TopicsSpec
from pipeline.config import SpecModel
from pipeline.finetune.pretrain_spec import PretrainSpec
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.inference.spec import EvaluateSpec, ScoreSpec
from pipeline.studies.benchmark.spec import BenchmarkSpec
from pipeline.studies.spec import CurveSpec, SuiteSpec
from pipeline.studies.tune_spec import TuneSpec


class SpecName(StrEnum):
    """Jobs that take a spec."""

    finetune = "finetune"
    pretrain = "pretrain"
    bundle = "bundle"
    evaluate = "evaluate"
    score = "score"
    duplicates = "duplicates"
    topics = "topics"
    learning_curve = "learning-curve"
    suite = "suite"
    tune = "tune"
    benchmark = "benchmark"


SPECS: dict[SpecName, type[SpecModel]] = {
    SpecName.finetune: FinetuneSpec,
    SpecName.pretrain: PretrainSpec,
    SpecName.bundle: BundleSpec,
    SpecName.evaluate: EvaluateSpec,
    SpecName.score: ScoreSpec,
    SpecName.duplicates: DuplicatesSpec,
    SpecName.topics: TopicsSpec,
    SpecName.learning_curve: CurveSpec,
    SpecName.suite: SuiteSpec,
    SpecName.tune: TuneSpec,
    SpecName.benchmark: BenchmarkSpec,
}


def schema(job: Annotated[SpecName | None, typer.Argument(help="one job; default: all")] = None) -> None:
    """Print the JSON schema of the specs."""
    schemas = {name.value: model.model_json_schema() for name, model in SPECS.items()}
    print(json.dumps(schemas[job.value] if job else schemas, indent=2))


if __name__ == "__main__":
    typer.run(schema)
