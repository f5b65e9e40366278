"""What the user writes for `bertmill pretrain`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from pipeline.config import SpecModel, StorageConfig, TrainingCompute, Uri, Uris, parse_spec
from pipeline.finetune.spec import CheckpointConfig, FinetuneSpec, TrackedTraining, TrainingConfig


class TextConfig(SpecModel):
    """Unlabelled Parquet."""

    train: Uris = Field(description="files, directories or prefixes of texts to learn from")
    validation: Uris | None = Field(None, description="texts that are judged while training, and not learned from")
    text: str = Field("text", description="column that holds the text")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of rows without usable text")


class TokenizerConfig(SpecModel):
    """A new tokenizer, trained on the corpus."""

    kind: Literal["wordpiece", "bpe"] = Field(
        "wordpiece", description="wordpiece as BERT's; bpe over bytes as RoBERTa's"
    )
    vocab_size: int = Field(
        30_000, ge=300, description="tokens at most; wordpiece knows the most frequent characters that fit"
    )
    lowercase: bool = Field(True, description="upper case is not told from lower")
    sample_rows: int = Field(200_000, ge=1, description="training rows that the vocabulary is learned from")


class ScratchConfig(SpecModel):
    """An encoder that was never trained."""

    config: dict[str, Any] = Field(
        description="a transformers configuration: `model_type` (bert, roberta, modernbert, ...) and what differs from "
        "its defaults (hidden_size, num_hidden_layers, ...); the vocabulary is the tokenizer's"
    )
    tokenizer: TokenizerConfig = TokenizerConfig()


class PretrainSpec(TrackedTraining):
    """Train an encoder on unlabelled text, by guessing hidden tokens, and write a bundle of it."""

    model: str | ScratchConfig = Field(
        description="directory, s3:// URI, models://NAME@ALIAS, package://NAME/DIR or Hugging Face id to go on from; "
        "or a new encoder"
    )
    data: TextConfig
    output: Uri = Field(description="URI of the bundle")
    work: Uri | None = Field(None, description="URI for token cache, checkpoints and metrics; default: OUTPUT.work")
    long_text: Literal["truncate", "window"] = Field("window", description="what becomes of longer text")
    stride: NonNegativeInt = Field(0, description="tokens that neighbouring windows share")
    next_sentence: bool = Field(
        False, description="also learn whether the second part of a window follows its first, as the original BERT"
    )
    training: TrainingConfig = TrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: TrainingCompute = TrainingCompute()
    storage: StorageConfig = StorageConfig()
    registry: Uri | None = Field(None, description="where models:// is looked up; default: $BERTMILL_REGISTRY")

    @model_validator(mode="after")
    def _adapters_have_an_encoder(self) -> PretrainSpec:
        if self.training.lora is not None and not isinstance(self.model, str):
            raise ValueError(
                "training.lora leaves the encoder's weights as they are, and a new encoder has random ones"
            )
        return self

    def as_training(self, model: str, source: str) -> FinetuneSpec:
        """The same as a training of one task.

        Args:
            model: Where the encoder is that training starts from.
            source: The spec's name, for errors.

        Raises:
            SpecError: the fields do not agree.
        """
        given = self.model_dump(exclude={"model", "data", "next_sentence"}, exclude_unset=True)
        data = self.data.model_dump(exclude={"text"})
        raw = {
            **given,
            **{field: getattr(self, field) for field in ("long_text", "stride")},
            "task": "masked-lm-next" if self.next_sentence else "masked-lm",
            "model": model,
            "data": {**data, "inputs": {"text": self.data.text}},
        }
        return parse_spec(raw, FinetuneSpec, source)
