"""Specs: YAML read into frozen pydantic models that forbid unknown fields.

A spec model lives beside its owner (`finetune/spec.py`, `inference/spec.py`); here are the blocks they
share and the one way to read a file: `load_spec(path, model, overrides)`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from pipeline.errors import Problem, SpecError
from pipeline.spec_problems import to_problems
from pipeline.uris import canonical_uri

SpecT = TypeVar("SpecT", bound="SpecModel")


class SpecModel(BaseModel):
    """Base of every spec block: immutable; unknown fields and infinite numbers are errors; defaults are checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


def _as_tuple(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"holds {value!r}; expected one URI, or a list of them")
    return (value,) if isinstance(value, str) else value


def _without_password(uri: str | None) -> str | None:
    """Refuse `scheme://user:password@...`: places are written to manifests, tables and logs."""
    if uri is not None and "://" in uri and urlsplit(uri).password is not None:
        raise ValueError("holds a password; give credentials through the environment")
    return uri


Uri = Annotated[str, Field(min_length=1), AfterValidator(_without_password), AfterValidator(canonical_uri)]
"""A place, in its one spelling: relative paths are taken from the directory the job is started in."""
Uris = Annotated[
    tuple[Uri, ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""One URI or a list of them."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What random draws start from."""


class StorageConfig(SpecModel):
    """Where an S3-compatible store is and which environment variables hold its credentials.

    Secrets never stand in a spec. Left out, the standard AWS variables, files and roles apply.
    """

    endpoint_url: Annotated[str | None, AfterValidator(_without_password)] = Field(
        None, description="S3 endpoint; default: $AWS_ENDPOINT_URL, else AWS"
    )
    region: str | None = Field(None, description="default: $AWS_REGION, $AWS_DEFAULT_REGION, else us-east-1")
    access_key_env: str | None = Field(None, description="NAME of the variable holding the access key id")
    secret_key_env: str | None = Field(None, description="NAME of the variable holding the secret key")
    session_token_env: str | None = Field(None, description="NAME of the variable holding a session token")
    anonymous: bool = Field(False, description="read public buckets without credentials")


class CorpusConfig(SpecModel):
    """Which Parquet files are read, and which of their columns."""

    uri: Uris = Field(
        description="file, directory, prefix or Delta table (local, s3://, gs:// by gcsfs, az:// by adlfs), or a list"
    )
    inputs: dict[str, str] = Field(
        default_factory=dict, description="task input -> corpus column, where the names differ"
    )
    keep: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="corpus columns (or hive partition keys) copied to the output"
    )
    corrupt_files: Literal["error", "skip"] = Field(
        "error", description="files that are not readable Parquet; skip leaves them out, lists them, and exits with 6"
    )
    empty_text: Literal["quarantine", "score"] = Field("quarantine", description="rows whose text is blank")
    max_bad_fraction: float = Field(0.05, ge=0, le=1, description="quarantined share above which nothing is published")
    shard_rows: int = Field(65_536, ge=1, description="aim for rows in one shard, the unit of work and retry")
    shard_bytes: int = Field(
        64 * 2**20, ge=1, description="aim for bytes in one shard, of input text and kept columns, uncompressed"
    )


SHARD_DEADLINE_S = 6 * 3600.0  # a usual shard of 64k rows through a large model on a few cores takes hours


class ElasticCompute(SpecModel):
    """What runs the model, and how many of it: a number, or between two."""

    workers: PositiveInt | Literal["auto"] | tuple[PositiveInt, PositiveInt] = Field(
        "auto",
        description="processes; auto: one per GPU, or one on CPU; [min, max]: as many as the cluster holds, "
        "fewer when a node is lost, more when nodes come (needs cpus_per_worker, and places that every node reaches)",
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto: GPUs where there are any")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="auto: bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32; scoring runs "
        "rows that half precision cannot decide again in fp32, where this says auto",
    )
    cpus_per_worker: PositiveInt | Literal["auto"] = Field("auto", description="threads of one worker on CPU")
    batch_tokens: PositiveInt | Literal["auto"] = Field("auto", description="padded tokens of one forward pass")
    shard_deadline_s: float = Field(
        SHARD_DEADLINE_S,
        gt=0,
        le=7 * 86_400,
        description="seconds after which a worker at work on one shard is ended and the shard tried again, three times",
    )

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if isinstance(self.workers, tuple):
            least, most = self.workers
            if least > most:
                raise ValueError(f"workers: [{least}, {most}] is [min, max], so the first is not above the second")
            if self.cpus_per_worker == "auto":
                raise ValueError("workers: [min, max] needs cpus_per_worker, the same whichever nodes are there")
        return self


class ComputeConfig(ElasticCompute):
    """What runs the model, and how many of it."""

    workers: PositiveInt | Literal["auto"] = Field("auto", description="processes; auto: one per GPU, or one on CPU")


class ScoringCompute(ComputeConfig):
    """What runs the model over a corpus, and how many of it."""

    workers: PositiveInt | Literal["auto"] = Field(
        "auto", description="processes; auto: workers_per_gpu for each GPU, or one on CPU"
    )
    workers_per_gpu: int = Field(
        1, ge=1, le=16, description="workers that share a GPU, each with its part of the memory; no matter on CPU"
    )

    @model_validator(mode="after")
    def _shared_gpus_may_be_used(self) -> Self:
        if self.device == "cpu" and self.workers_per_gpu > 1:
            raise ValueError(f"workers_per_gpu: {self.workers_per_gpu} is about GPUs, and device: cpu uses none")
        return self


class NightCompute(ScoringCompute):
    """What scores a night, how many of it, and what that costs."""

    price_per_hour: float | None = Field(
        None, ge=0, description="what one worker costs an hour, in any currency: reports then say what a night cost"
    )


class TrainingCompute(ElasticCompute):
    """What trains the model, and how many of it."""

    data_parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="several workers: ddp: each holds all weights; fsdp: each holds a part of weights, gradients and "
        "moments, for encoders that are large beside a device's memory",
    )
    compile: bool = Field(
        False,
        description="torch.compile of the encoder's layers: costs up to minutes at a start, and a compiler on CPU",
    )

    @model_validator(mode="after")
    def _shards_are_not_scaled(self) -> Self:
        if self.data_parallel == "fsdp" and self.precision == "fp16":
            raise ValueError(
                "data_parallel: fsdp cannot scale losses, as precision: fp16 needs it: use bf16 or fp32, or ddp"
            )
        return self


class EncoderUse(SpecModel):
    """How text goes into an encoder and an embedding comes out."""

    max_length: int = Field(128, ge=8, description="tokens of one input, special tokens included")
    long_text: Literal["truncate", "window"] = Field("truncate", description="what becomes of longer text")
    stride: int = Field(32, ge=0, description="tokens that neighbouring windows share")
    pooling: Literal["mean", "cls", "max"] = Field(
        "mean", description="how embeddings are pooled; default: as the model's directory says, else mean"
    )
    normalize: bool = Field(True, description="scale embeddings to length 1; default: as the model's directory says")

    def encoder_use(self) -> dict[str, Any]:
        """These fields alone, to be written elsewhere."""
        return self.model_dump(include=set(EncoderUse.model_fields))


BUNDLE_NAME = re.compile("[a-z][a-z0-9_]*")
"""A name that can prefix columns and name a folder."""


def check_bundle_names(names: Iterable[str]) -> None:
    """Refuse names that cannot prefix columns.

    Raises:
        ValueError: naming the first.
    """
    wrong = [name for name in names if not BUNDLE_NAME.fullmatch(name)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} cannot prefix columns: lower-case letters, digits and '_', a letter first")


@dataclass(frozen=True)
class PoolOptions:
    """A compute block with every `auto` resolved: how many workers, and what each of them reserves.

    With `min_workers` training may go on with any number from that to `num_workers`.
    """

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    shard_deadline_s: float = SHARD_DEADLINE_S
    min_workers: int | None = None

    @property
    def threads_per_worker(self) -> int:
        """Threads that a worker may keep busy."""
        return max(1, int(self.cpus_per_worker))


def load_spec(path: str | Path, model: type[SpecT], overrides: Sequence[str] = ()) -> SpecT:
    """Read a YAML spec, apply `a.b=c` overrides, and validate it.

    Args:
        path: The YAML file.
        model: The pydantic model it must fit.
        overrides: `field.sub=value` pairs; values are parsed as YAML.

    Raises:
        SpecError: with every problem found, if the file cannot be read or does not fit the model.
    """
    source = str(path)
    raw = _read_yaml(source)
    for override in overrides:
        _apply_override(raw, override, source)
    return parse_spec(raw, model, source)


def parse_spec(raw: dict[str, Any], model: type[SpecT], source: str) -> SpecT:
    """Validate an already read mapping; `source` names it in errors.

    Raises:
        SpecError: with every problem found.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SpecError(source, to_problems(error, model, raw)) from None


def _read_yaml(source: str) -> dict[str, Any]:
    try:
        text = Path(source).read_text(encoding="utf-8")
        doubled = _doubled_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        raw = yaml.safe_load(text)
    except FileNotFoundError:
        problem = Problem("(file)", "does not exist", "a YAML spec", f"looked in {os.getcwd()}")
        raise SpecError(source, (problem,)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = "put spaces in place of tabs" if "found character '\\t'" in str(error) else ""
        raise SpecError(source, (Problem("(file)", f"cannot be read: {error}", "a YAML spec", remedy),)) from None
    if doubled:
        raise SpecError(source, tuple(_doubled_problem(key, f"stands in {where}") for key, where in doubled))
    if not isinstance(raw, dict):
        found = "holds nothing" if raw is None else "holds a list" if isinstance(raw, list) else f"holds {raw!r}"
        remedy = "`bertmill schema` prints the fields of each job's spec"
        raise SpecError(source, (Problem("(file)", found, "a mapping of fields", remedy),))
    return raw


def _doubled_keys(root: yaml.Node | None) -> list[tuple[str, str]]:
    """Keys that stand twice in one block, and in which lines: of these YAML takes the last, without a word."""
    doubled, pending, seen = [], [root], set()
    while pending:
        node = pending.pop(0)
        if id(node) in seen:  # what an anchor names may hold itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                pending += [key, value]
                known, line = (key.tag, str(key.value)), key.start_mark.line + 1
                if known in lines:
                    doubled.append((known[1], f"line {line}, and before in line {lines[known]}"))
                lines[known] = line
    return doubled


def _doubled_problem(field: str, found: str) -> Problem:
    return Problem(field, found, "each field once", "leave one of them out")


def _apply_override(raw: dict[str, Any], override: str, source: str) -> None:
    path, separator, value = override.partition("=")
    *parents, leaf = names = path.split(".")
    if not separator or not all(name.strip() for name in names):
        found = f"names {path!r}, and no part of a field's name is empty" if separator else "has no '='"
        remedy = "write the field, '=' and its value, as in --set training.epochs=3"
        raise SpecError(source, (Problem(f"--set {override}", found, "field.sub=value", remedy),))
    node: dict[str, Any] = raw
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise SpecError(source, (Problem(f"--set {path}", f"{name} is not a block", "a block of fields"),))
        node = child
    try:
        doubled = _doubled_keys(yaml.compose(value, Loader=yaml.SafeLoader))
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError(source, (Problem(f"--set {path}", f"{value!r} is not YAML", "a YAML value"),)) from None
    if doubled:
        raise SpecError(source, tuple(_doubled_problem(f"--set {path}", f"{key} is given twice") for key, _ in doubled))
