"""What the user writes for `bertmill finetune`."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config import ComputeConfig, SpecModel, StorageConfig, Uri, Uris
from pipeline.tasks import TASKS
from pipeline.uris import overlaps

_RECIPE = {"task", "training", "max_length", "long_text", "stride", "pooling", "normalize"}


class DataConfig(SpecModel):
    """Labelled Parquet."""

    train: Uris = Field(description="files, directories or prefixes of training rows")
    validation: Uris | None = Field(None, description="rows evaluated after each epoch")
    inputs: dict[str, str] = Field(default_factory=dict, description="task input -> column, where names differ")
    label: str | None = Field(None, description="target column; default: the task's target name")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of rows without usable text or label")


class TrainingConfig(SpecModel):
    """The recipe."""

    epochs: int = Field(3, ge=1)
    min_steps: int = Field(0, ge=0, description="train at least so many steps, whatever the epochs")
    batch_rows: int = Field(32, ge=1, description="rows of one global batch, whatever the number of workers")
    learning_rate: float = Field(5e-5, gt=0)
    head_learning_rate: float | None = Field(None, gt=0, description="of the new head; default: the same")
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto", description="padded tokens of one forward and backward pass; auto: 1,024 on CPU, 16,384 on a GPU"
    )
    seed: int = 17


class CheckpointConfig(SpecModel):
    """When training state is saved; it is also saved after each epoch."""

    every_s: float = Field(300.0, gt=0, description="seconds between checkpoints")
    keep: int = Field(2, ge=1)
    max_failures: int = Field(3, ge=0, description="how often lost workers are replaced before giving up")


class FinetuneSpec(SpecModel):
    """Fine-tune an encoder on labelled Parquet and write a bundle."""

    task: str
    model: str = Field(description="directory, s3:// URI, package://NAME/DIR or Hugging Face id")
    data: DataConfig
    output: Uri = Field(description="URI of the bundle")
    work: Uri | None = Field(None, description="URI for token cache, checkpoints and metrics; default: OUTPUT.work")
    max_length: int = Field(128, ge=8, description="tokens of one input, special tokens included")
    long_text: Literal["truncate", "window"] = Field("truncate", description="what becomes of longer text")
    stride: int = Field(32, ge=0, description="tokens that neighbouring windows share")
    pooling: Literal["mean", "cls", "max"] = Field("mean", description="how embeddings are pooled")
    normalize: bool = Field(True, description="scale embeddings to length 1")
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: ComputeConfig = ComputeConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _windows_move_on(self) -> FinetuneSpec:
        task = TASKS.get(self.task)
        is_windowed = self.long_text == "window" or (task is not None and task.windows_always)
        if is_windowed and self.stride > self.max_length // 2:
            raise ValueError(f"stride {self.stride} is more than half of max_length {self.max_length}")
        return self

    @model_validator(mode="after")
    def _output_is_apart(self) -> FinetuneSpec:
        inputs = (*self.data.train, *(self.data.validation or ()))
        for place in (self.output, self.work_uri):
            if any(overlaps(uri, place) for uri in inputs):
                raise ValueError(f"{place} overlaps with the training data: a run would read its own output")
        return self

    @property
    def work_uri(self) -> str:
        """Where the run keeps its own files."""
        return self.work or f"{self.output}.work"

    def fingerprint(self, data_fingerprint: str, model_fingerprint: str) -> str:
        """Hash of what decides the trained weights; workers, checkpoints and places are not in it."""
        recipe = self.model_dump(include=_RECIPE, mode="json")
        recipe["precision"] = self.compute.precision
        parts = [recipe, data_fingerprint, model_fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class BundleSpec(SpecModel):
    """Bundle a pretrained encoder as it is, for embeddings."""

    model: str = Field(description="directory, s3:// URI, package://NAME/DIR or Hugging Face id")
    output: Uri = Field(description="URI of the bundle")
    max_length: int = Field(256, ge=8, description="tokens of one input, special tokens included")
    long_text: Literal["truncate", "window"] = Field("truncate", description="what becomes of longer text")
    stride: int = Field(0, ge=0, description="tokens that neighbouring windows share")
    pooling: Literal["mean", "cls", "max"] = Field("mean", description="how embeddings are pooled")
    normalize: bool = Field(True, description="scale embeddings to length 1")
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _windows_move_on(self) -> BundleSpec:
        if self.long_text == "window" and self.stride > self.max_length // 2:
            raise ValueError(f"stride {self.stride} is more than half of max_length {self.max_length}")
        return self
