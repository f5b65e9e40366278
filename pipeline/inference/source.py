"""Which bundles a run uses and what of the corpus they read: told to its workers, and known before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.config import ElasticCompute
from pipeline.corpus.reader import Columns, ReadOptions
from pipeline.encoder.bundle import BundleInfo
from pipeline.encoder.tokenize import TokenOptions
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Task


@dataclass(frozen=True)
class TextSource:
    """The texts one bundle reads: corpus columns in the order of its task's inputs.

    Attributes:
        columns: Column names.
        are_words: The last of them holds lists of words.
    """

    columns: tuple[str, ...]
    are_words: bool = False


@dataclass(frozen=True)
class ModelSource:
    """Which bundles a worker loads (by name), what texts they read, and what runs them.

    `embedded` are those whose embeddings are wanted beside what a head says; None: all. `fingerprints` are of bundles
    that have to be what they were when the run was planned.
    """

    bundles: Mapping[str, str]
    texts: Mapping[str, TextSource]
    compute: ElasticCompute
    num_threads: int
    storage: Storage
    embedded: frozenset[str] | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstModel:
    """A cascade's first bundle, alone in its source, and the score from which its answers stand."""

    model: ModelSource
    min_score: float


@dataclass(frozen=True)
class InputSource:
    """Which columns a worker reads, how, and which of them each bundle takes."""

    columns: Columns
    options: ReadOptions
    texts: Mapping[str, TextSource]


def columns_read(bundle: BundleInfo, inputs: Mapping[str, str]) -> tuple[str, ...]:
    """The corpus columns a bundle reads, where a spec's `corpus.inputs` names some of them otherwise."""
    columns = {**bundle.inputs, **inputs}
    return tuple(columns[name] for name in find_task(bundle.task, "bundle").inputs)


def token_groups(infos: Mapping[str, BundleInfo], texts: Mapping[str, TextSource]) -> list[list[str]]:
    """Names of bundles that tokenise alike: same tokenizer, same options, same columns."""
    groups: dict[object, list[str]] = {}
    for name, info in infos.items():
        options = token_options(info, find_task(info.task, name))
        # A question keeps its context, another pair shares the room: only there do spans change the tokens.
        options = replace(options, with_spans=options.with_spans and len(texts[name].columns) > 1)
        groups.setdefault((info.tokenizer_hashes, options, texts[name]), []).append(name)
    return list(groups.values())


def token_options(info: BundleInfo, task: Task) -> TokenOptions:
    """How a bundle's text becomes tokens."""
    long_text = "window" if task.windows_always else info.long_text
    return TokenOptions(info.max_length, long_text, info.stride, task.needs_spans)


def joined_versions(bundles: Mapping[str, BundleInfo]) -> str:
    """The model version of a run: that of its one bundle, or `name=version` for each of several."""
    return ", ".join(f"{name}={info.model_version}" if name else info.model_version for name, info in bundles.items())
