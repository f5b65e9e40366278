"""What the user writes for `bertmill finetune`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.config import EncoderUse, Seed, SpecModel, StorageConfig, TrainingCompute, Uri, Uris, check_bundle_names
from pipeline.tasks import TASKS
from pipeline.uris import join_uri, overlaps


class DataConfig(SpecModel):
    """Labelled Parquet."""

    train: Uris = Field(description="files, directories or prefixes of training rows")
    validation: Uris | None = Field(None, description="rows that are judged while training, and not learned from")
    inputs: dict[str, str] = Field(default_factory=dict, description="task input -> column, where names differ")
    label: str | None = Field(None, description="target column; default: the task's target name, if it needs one")
    teacher: str | None = Field(
        None, description="bundle that scored these rows: its class_scores are the target, in the order of its labels"
    )
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of rows without usable text or label")


def _spell_labels(shares: Any) -> Any:
    """Labels that YAML reads as numbers or booleans, spelled as bundles spell them: `true`, `1`, `0.5`."""
    if not isinstance(shares, dict):
        return shares
    return {
        pa.scalar(key).cast(pa.string()).as_py() if isinstance(key, int | float) else key: shares[key] for key in shares
    }


ClassShares = Annotated[Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_spell_labels)]
"""`balanced`: every class counts the same; or label -> weight, 1 where none is given."""


_OF_A_LINEAR_HEAD = {"method", "head_reads", "label_smoothing", "class_weights", "seed"}


class MaskingConfig(SpecModel):
    """Which tokens a masked language model has to guess."""

    share: float = Field(0.15, gt=0, le=0.5, description="of the tokens of each window")
    whole_words: bool = Field(False, description="all tokens of a word, or none")


class LoraConfig(SpecModel):
    """Low-rank adapters: the encoder's own weights stay as they are, each adapted matrix learns a small change."""

    rank: PositiveInt = Field(8, description="columns of an adapter: how much it can learn")
    alpha: float | None = Field(
        None, gt=0, description="a change counts alpha / rank; default: twice the rank, so that it counts twice"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's input that is dropped in training")
    target_modules: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto", description="names (or their ends) of linear modules in the encoder's layers; auto: all of them"
    )

    @property
    def scale(self) -> float:
        """Alpha, given or not."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


class TrainingConfig(SpecModel):
    """The recipe."""

    method: Literal["finetune", "linear_head"] = Field(
        "finetune", description="linear_head fits the last layer alone, on the frozen encoder's pooled states"
    )
    epochs: int = Field(3, ge=1, description="times that every row is learned from")
    min_steps: int = Field(0, ge=0, description="train at least so many steps, whatever the epochs")
    batch_rows: int = Field(32, ge=1, description="rows of one global batch, whatever the number of workers")
    batch_tokens: PositiveInt | None = Field(
        None, description="instead of batch_rows: a global batch holds as many rows as fit in so many tokens"
    )
    learning_rate: float = Field(5e-5, gt=0, description="at its peak, after the warm-up")
    head_learning_rate: float | None = Field(None, gt=0, description="of the new head; default: the same")
    layer_decay: float = Field(1.0, gt=0, le=1, description="each layer's learning rate, as a share of the one above's")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="how the learning rate falls after the warm-up: to 0, or not at all"
    )
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="share of the steps until the learning rate's peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, of matrices; none on biases and norms")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to this length")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that is spread over all classes")
    temperature: float = Field(
        1.0, gt=0, description="above 1 a teacher's lesser scores count more (Hinton et al. 2015)"
    )
    class_weights: ClassShares | None = Field(
        None, description="how much a row's (a token's) loss counts by its label; scaled to 1 on average"
    )
    sampling: ClassShares | None = Field(
        None, description="how often a row is drawn by its label; an epoch has as many draws as there are rows"
    )
    freeze_layers: NonNegativeInt | None = Field(
        None, description="the embeddings and so many of the lowest layers stay as they are"
    )
    reset_layers: int = Field(0, ge=0, description="so many of the highest layers start from random weights")
    head_start: Literal["auto", "fitted", "random"] = Field(
        "auto",
        description="where the head's last layer starts: fitted to the frozen encoder's states, or at random; auto: "
        "fitted where it is a new one that gives labels",
    )
    head_reads: Literal["auto", "first", "mean"] = Field(
        "auto",
        description="what a head over rows reads: the first token's state, or the mean of all, by one more layer; "
        "auto: the mean where `pooling` is mean and the head a new one for few rows (or a linear head)",
    )
    lora: LoraConfig | None = Field(
        None, description="adapters learn in the encoder's place; the bundle holds plain weights"
    )
    evaluate_every_steps: PositiveInt | None = Field(None, description="instead of after each epoch")
    keep_best: str | None = Field(
        None, description="the bundle gets the weights with the best validation figure: auto, METRIC or HEAD.METRIC"
    )
    patience: PositiveInt | None = Field(
        None, description="stop after so many evaluations without a better figure of keep_best"
    )
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="tokens of a forward and backward pass; auto: on CPU 4,096 (1,024 if padded), on a GPU 16,384",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute layers again in the backward pass: less memory, more work"
    )
    masking: MaskingConfig = MaskingConfig()
    seed: Seed = Field(17, description="of the order of rows, new weights and dropout")

    @model_validator(mode="after")
    def _fields_agree(self) -> TrainingConfig:
        unused = sorted(self.model_fields_set - _OF_A_LINEAR_HEAD)
        if self.method == "linear_head" and unused:
            raise ValueError(f"{unused[0]} has no meaning with method: linear_head, which takes no steps")
        if self.batch_tokens is not None and "batch_rows" in self.model_fields_set:
            raise ValueError("batch_rows and batch_tokens: give one of the two")
        if self.lora is not None and (self.freeze_layers is not None or self.reset_layers):
            field = "reset_layers" if self.reset_layers else "freeze_layers"
            raise ValueError(f"{field} has no meaning with lora, which leaves all weights of the encoder as they are")
        if self.patience is not None and self.keep_best is None:
            raise ValueError("patience counts evaluations without a better figure: say which with keep_best, or auto")
        return self


class CheckpointConfig(SpecModel):
    """When training state is saved; it is also saved after each epoch."""

    every_s: float = Field(300.0, gt=0, description="seconds between checkpoints")
    keep: int = Field(2, ge=1, description="so many of the newest checkpoints stay")
    max_failures: int = Field(3, ge=0, description="how often lost workers are replaced before giving up")


class HeadSpec(SpecModel):
    """One of several tasks on one encoder."""

    task: str = Field(description="what is learned, as in a spec of one task")
    data: DataConfig
    weight: float = Field(1.0, gt=0, description="how much a row of this task counts beside another task's")


class TrackedTraining(EncoderUse):
    """Where a training's figures go besides its own `metrics.jsonl`."""

    tensorboard: Uri | None = Field(None, description="local directory for event files that TensorBoard reads")
    mlflow: Uri | None = Field(None, description="MLflow tracking: a directory, or the http(s):// address of a server")
    wandb: str | None = Field(
        None,
        pattern=r"^[\w.-]+(/[\w.-]+)?$",
        description="Weights & Biases: PROJECT or ENTITY/PROJECT; the key, and the mode, as W&B's variables say",
    )


class FinetuneSpec(TrackedTraining):
    """Fine-tune an encoder on labelled Parquet and write a bundle; or on several tasks at once, a bundle for each."""

    task: str | None = Field(None, description="what is learned; `heads` instead learns several tasks")
    data: DataConfig | None = Field(None, description="what it is learned from")
    heads: dict[str, HeadSpec] = Field(default_factory=dict, description="name -> task; writes OUTPUT/NAME for each")
    model: str = Field(
        description="directory, s3:// URI, models://NAME@ALIAS, package://NAME/DIR or Hugging Face ID or ID@REVISION"
    )
    registry: Uri | None = Field(None, description="where models:// is looked up; default: $BERTMILL_REGISTRY")
    output: Uri = Field(description="URI of the bundle, or of the folder of several")
    work: Uri | None = Field(None, description="URI for token cache, checkpoints and metrics; default: OUTPUT.work")
    training: TrainingConfig = TrainingConfig()
    seeds: tuple[Seed, ...] = Field(
        (),
        description="in place of training.seed: a training with each, into OUTPUT/seed-N, and a table of their figures",
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    compute: TrainingCompute = TrainingCompute()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _tasks_are_given_once(self) -> FinetuneSpec:
        single = [name for name in ("task", "data") if getattr(self, name) is not None]
        if self.heads and single:
            raise ValueError(f"`heads` says what is learned, so `{single[0]}` has no place beside it")
        if not self.heads and len(single) < 2:
            missing = " and ".join(f"`{name}`" for name in ("task", "data") if name not in single)
            raise ValueError(f"{missing} missing: give `task` and `data`, or `heads` for several tasks")
        check_bundle_names(self.heads)
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> FinetuneSpec:
        held_out = [head for head in self.all_heads.values() if head.data.validation is not None]
        if self.training.keep_best is not None and not held_out:
            raise ValueError("training.keep_best compares figures on validation rows: give data.validation")
        return self

    @model_validator(mode="after")
    def _seeds_are_given_once(self) -> FinetuneSpec:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice in seeds")
        if self.seeds and "seed" in self.training.model_fields_set:
            raise ValueError("seeds and training.seed: give one of the two")
        return self

    @model_validator(mode="after")
    def _temperature_has_a_teacher(self) -> FinetuneSpec:
        if self.training.temperature != 1 and any(head.data.teacher is None for head in self.all_heads.values()):
            raise ValueError("training.temperature softens a teacher's scores: give data.teacher")
        return self

    @model_validator(mode="after")
    def _windows_move_on(self) -> FinetuneSpec:
        _check_stride(self, [head.task for head in self.all_heads.values()])
        return self

    @model_validator(mode="after")
    def _output_is_apart(self) -> FinetuneSpec:
        data = [head.data for head in self.all_heads.values()]
        inputs = [uri for block in data for uri in (*block.train, *(block.validation or ()))]
        for place in (self.output, self.work_uri):
            if any(overlaps(uri, place) for uri in inputs):
                raise ValueError(f"{place} overlaps with the training data: a run would read its own output")
        runs = [self.with_seed(seed) for seed in self.seeds] or [self]
        bundles = [run.output_of(name) for run in runs for name in self.all_heads]
        inside = [bundle for bundle in bundles if f"{self.work_uri}/".startswith(f"{bundle}/")]
        if inside:
            raise ValueError(
                f"work: {self.work_uri} is in the bundle's place, {inside[0]}: what a stopped run leaves there would "
                "be in the way of its bundle; leave work out for OUTPUT.work, or name a place of its own"
            )
        return self

    @property
    def all_heads(self) -> dict[str, HeadSpec]:
        """What is learned, by name; a single task has the name ""."""
        if self.task is not None and self.data is not None:
            return {"": HeadSpec(task=self.task, data=self.data)}
        return self.heads

    def field_of(self, head: str, field: str) -> str:
        """A head's field as the spec spells it, for messages."""
        return f"heads.{head}.{field}" if head else field

    def with_seed(self, seed: int) -> FinetuneSpec:
        """The training with one of `seeds`; all share one token cache."""
        changes = {
            "training": self.training.model_copy(update={"seed": seed}),
            "output": join_uri(self.output, f"seed-{seed}"),
            "work": self.work_uri,
            "seeds": (),
        }
        return self.model_copy(update=changes)

    def output_of(self, head: str) -> str:
        """Where a head's bundle is written."""
        return join_uri(self.output, head) if head else self.output

    @property
    def work_uri(self) -> str:
        """Where the run keeps its own files."""
        return self.work or f"{self.output}.work"

    def fingerprint(self, data_fingerprint: str, model_fingerprint: str) -> str:
        """Hash of what decides the trained weights; workers, checkpoints and places are not in it."""
        recipe = self.recipe(data_fingerprint, model_fingerprint)
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def recipe(self, data_fingerprint: str, model_fingerprint: str) -> dict[str, Any]:
        """What decides the trained weights, by the spec's field."""
        heads = self.all_heads.items()
        return {
            **{self.field_of(name, "task"): head.task for name, head in heads},
            **{f"heads.{name}.weight": head.weight for name, head in heads if name},
            **{f"training.{field}": value for field, value in self.training.model_dump(mode="json").items()},
            **self.encoder_use(),
            "heads": [name for name, _ in heads],
            "compute.precision": self.compute.precision,
            "data": data_fingerprint,
            "model": model_fingerprint,
        }


class BundleSpec(EncoderUse):
    """Bundle a pretrained encoder as it is, for embeddings; or with the head that a checkpoint was trained with."""

    task: str = Field("embedding", description="what it is for; other than embedding: what the checkpoint's head does")
    model: str = Field(
        description="directory, s3:// URI, models://NAME@ALIAS, package://NAME/DIR or Hugging Face ID or ID@REVISION"
    )
    output: Uri = Field(description="URI of the bundle")
    max_length: int = Field(256, ge=8, description="tokens of one input, special tokens included")
    storage: StorageConfig = StorageConfig()
    registry: Uri | None = Field(None, description="where models:// is looked up; default: $BERTMILL_REGISTRY")

    @model_validator(mode="after")
    def _windows_move_on(self) -> BundleSpec:
        _check_stride(self, [self.task])
        return self


def _check_stride(use: EncoderUse, tasks: Sequence[str]) -> None:
    known = [TASKS[name] for name in tasks if name in TASKS]
    is_windowed = use.long_text == "window" or any(task.windows_always for task in known)
    if is_windowed and use.stride > use.max_length // 2:
        raise ValueError(
            f"stride {use.stride} is more than half of max_length {use.max_length}: "
            f"set stride to {use.max_length // 2} or less"
        )
