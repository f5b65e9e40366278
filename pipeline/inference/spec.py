"""What the user writes for `bertmill score` and `bertmill evaluate`."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from pipeline.config import ComputeConfig, CorpusConfig, SpecModel, StorageConfig, Uri
from pipeline.schema import RESERVED_COLUMNS, written_name
from pipeline.uris import overlaps


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

    @model_validator(mode="after")
    def _output_is_apart(self) -> ScoreSpec:
        inside = [uri for uri in self.corpus.uri if overlaps(uri, self.output.uri)]
        if inside:
            raise ValueError(f"output.uri and corpus.uri overlap ({inside[0]}): a run would read its own output")
        return self

    @field_validator("corpus")
    @classmethod
    def _kept_names_are_free(cls, corpus: CorpusConfig) -> CorpusConfig:
        names = [written_name(name).lower() for name in corpus.keep]
        taken = sorted(set(names) & RESERVED_COLUMNS)
        if taken:
            raise ValueError(f"corpus.keep names columns that bertmill writes itself: {', '.join(taken)}")
        if len(set(names)) < len(names):
            raise ValueError(
                "corpus.keep names a column twice (in a table, upper and lower case or '.' and '_' are one)"
            )
        return corpus


class EvaluateSpec(SpecModel):
    """Measure a bundle on labelled Parquet."""

    bundle: Uri = Field(description="bundle written by `bertmill finetune`")
    corpus: CorpusConfig
    label: str | None = Field(None, description="column of true labels; default: the task's target name")
    report: Uri | None = Field(None, description="URI of a JSON file to write the figures to")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("corpus")
    @classmethod
    def _figures_are_of_every_file(cls, corpus: CorpusConfig) -> CorpusConfig:
        if corpus.corrupt_files == "skip":
            raise ValueError("corrupt_files: skip is for scoring; figures over part of the data would mislead")
        return corpus
