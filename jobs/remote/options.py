"""What the commands about submitted jobs are told."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipeline.config import SpecModel
from pipeline.finetune.pretrain_spec import PretrainSpec
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.inference.spec import EvaluateSpec, ScoreSpec
from pipeline.studies.spec import CurveSpec, SuiteSpec

JobServerAddress = Annotated[
    str | None,
    typer.Option("--address", help="job server, http://HEAD:8265; default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS"),
]
SubmissionId = Annotated[str, typer.Argument(help="as `bertmill submit` and `bertmill jobs` print it", metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


class RemoteJobName(StrEnum):
    """Jobs that can be submitted."""

    finetune = "finetune"
    pretrain = "pretrain"
    bundle = "bundle"
    evaluate = "evaluate"
    score = "score"
    nightly = "nightly"
    learning_curve = "learning-curve"
    suite = "suite"


JOB_SPECS: dict[RemoteJobName, type[SpecModel]] = {
    RemoteJobName.finetune: FinetuneSpec,
    RemoteJobName.pretrain: PretrainSpec,
    RemoteJobName.bundle: BundleSpec,
    RemoteJobName.evaluate: EvaluateSpec,
    RemoteJobName.score: ScoreSpec,
    RemoteJobName.nightly: ScoreSpec,
    RemoteJobName.learning_curve: CurveSpec,
    RemoteJobName.suite: SuiteSpec,
}
NIGHT_JOBS = (RemoteJobName.score, RemoteJobName.nightly)
