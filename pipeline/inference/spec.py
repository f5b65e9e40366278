"""What the user writes for `bertmill score` and `bertmill evaluate`."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.config import ComputeConfig, CorpusConfig, SpecModel, StorageConfig, Uri
from pipeline.schema import RESERVED_COLUMNS


class OutputConfig(SpecModel):
    """Where scored rows go, and which of the larger columns are written."""

    uri: Uri = Field(description="the Delta table (local path, s3://, gs://, az://); created when missing")
    embedding: bool = Field(True, description="write the pooled encoder output as list<float32>")


class ScoreSpec(SpecModel):
    """Score a corpus with a bundle and publish one night of a table."""

    bundle: Uri = Field(description="bundle written by `bertmill finetune`")
    corpus: CorpusConfig
    output: OutputConfig
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("corpus")
    @classmethod
    def _kept_names_are_free(cls, corpus: CorpusConfig) -> CorpusConfig:
        taken = sorted(set(corpus.keep) & RESERVED_COLUMNS)
        if taken:
            raise ValueError(f"corpus.keep names columns that bertmill writes itself: {', '.join(taken)}")
        return corpus


class EvaluateSpec(SpecModel):
    """Measure a bundle on labelled Parquet."""

    bundle: Uri = Field(description="bundle written by `bertmill finetune`")
    corpus: CorpusConfig
    label: str | None = Field(None, description="column of true labels; default: the task's target name")
    report: Uri | None = Field(None, description="URI of a JSON file to write the figures to")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()
