"""What the commands about submitted jobs are told."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from jobs.schema import SPECS, SpecName
from pipeline.config import SpecModel

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
    duplicates = "duplicates"
    topics = "topics"
    learning_curve = "learning-curve"
    suite = "suite"


JOB_SPECS: dict[RemoteJobName, type[SpecModel]] = {
    job: SPECS[SpecName.score if job is RemoteJobName.nightly else SpecName(job.value)] for job in RemoteJobName
}
NIGHT_JOBS = (RemoteJobName.score, RemoteJobName.nightly, RemoteJobName.duplicates, RemoteJobName.topics)
