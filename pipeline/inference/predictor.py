"""Bundles on this machine's device: texts in, tokens and model outputs out. Scoring and evaluation share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import torch

from pipeline.config import ElasticCompute, ScoringCompute
from pipeline.corpus.reader import input_column
from pipeline.encoder.attention import Runtime, choose_runtime, set_threads
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.bundle import Bundle, BundleInfo, fetch_bundle
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network, shares_encoder
from pipeline.encoder.outputs import EmbeddingOptions, ModelOutputs
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenRows
from pipeline.errors import ModelError
from pipeline.inference.settle import NUM_PROBED, settle
from pipeline.inference.source import ModelSource, TextSource, token_groups, token_options
from pipeline.inference.stages import StageClock
from pipeline.tasks import find_task
from pipeline.tasks.base import Examples, FloatArray, Learned, Task


@dataclass(frozen=True)
class Member:
    """One bundle of a predictor."""

    info: BundleInfo
    task: Task
    learned: Learned

    def margins(self, outputs: ModelOutputs, examples: Examples) -> FloatArray | None:
        """How far each row's logits are from another answer [R]; None where its answers are numbers."""
        return self.task.margins(outputs, examples, self.learned)


@dataclass(frozen=True)
class Prediction:
    """What one bundle says about some rows."""

    examples: Examples
    outputs: ModelOutputs


class Predictor:
    """Bundles that read the same rows: one tokenisation for those that tokenise alike, one forward pass for those
    that share an encoder too.

    Args:
        members: The bundles.
        passes: How they run.
        runtime: Where.
        settles: What half precision cannot decide runs again in fp32.
    """

    def __init__(self, members: Mapping[str, Member], passes: list[_Pass], runtime: Runtime, settles: bool) -> None:
        self.members = members
        self.runtime = runtime
        self._passes = passes
        self._settles = settles

    @property
    def padded_batch(self) -> BatchBudget | None:
        """What a padded batch of the first encoder holds; None where it takes packs."""
        return self._passes[0].models[0][1].padded_batch

    def predict(
        self, rows: pa.Table, texts: Mapping[str, TextSource], clock: StageClock | None = None
    ) -> dict[str, Prediction]:
        """Tokenise and run one model input per row and bundle.

        Args:
            rows: Rows as `read_shard` returns them, without unusable texts [R].
            texts: What each bundle reads of them.
            clock: Told what this takes.
        """
        predictions, clock = {}, clock or StageClock()
        for one_pass in self._passes:
            source = texts[one_pass.models[0][0][0]]
            arrays = tuple(rows[input_column(name)] for name in source.columns)
            with clock.timing("tokenize"):
                examples = Examples(arrays, one_pass.tokenizer.encode(*arrays), source.are_words)
            clock.num_unknown_tokens += one_pass.tokenizer.count_unknown(examples.tokens)
            for names, model in one_pass.models:
                with clock.timing("model"):
                    found = self._run(model, names, examples, clock)
                for name, outputs in zip(names, found, strict=True):
                    predictions[name] = Prediction(examples, outputs)
        return predictions

    def _run(
        self, model: EncoderModel, names: Sequence[str], examples: Examples, clock: StageClock
    ) -> tuple[ModelOutputs, ...]:
        """One forward pass, and another in fp32 over what it could not decide."""

        def run(tokens: TokenRows, in_fp32: bool) -> tuple[ModelOutputs, ...]:
            clock.flops += model.flops(tokens)
            return model.run(tokens, clock.after_batch, in_fp32)

        settles = self._settles and model.runtime.autocast_dtype is not None
        are_few = examples.tokens.num_rows <= NUM_PROBED
        found = run(examples.tokens, settles and are_few)
        if not settles or are_few:
            return found
        heads = [self.members[name].margins for name in names]
        clock.num_settled_rows += settle(found, examples, heads, partial(run, in_fp32=True))
        return found


@dataclass(frozen=True)
class _Pass:
    """One tokenisation, and the encoders that take its tokens, each with the names of its bundles."""

    tokenizer: TextTokenizer
    models: list[tuple[list[str], EncoderModel]]


def load_predictor(source: ModelSource) -> Predictor:
    """Fetch and load bundles.

    Raises:
        ModelError, ComputeError: one cannot be loaded or run here, or is no longer what the run was planned with.
    """
    set_threads(source.num_threads)
    pa.set_cpu_count(max(1, source.num_threads))  # Arrow decodes columns in threads of its own, by default one per core
    runtime = choose_runtime(source.compute)
    _share_gpu(source.compute, runtime)
    bundles = {name: fetch_bundle(uri, source.storage) for name, uri in source.bundles.items()}
    _check_planned(bundles, source)
    members = {name: _member(bundle.info, source.bundles[name]) for name, bundle in bundles.items()}
    groups = token_groups({name: member.info for name, member in members.items()}, source.texts)
    embedded = frozenset(bundles) if source.embedded is None else source.embedded
    passes = [_load_pass(names, bundles, members, runtime, embedded) for names in groups]
    return Predictor(members, passes, runtime, source.compute.precision == "auto")


def _check_planned(bundles: Mapping[str, Bundle], source: ModelSource) -> None:
    """A bundle written anew since the plan would score under the fingerprint of the one before."""
    for name, bundle in bundles.items():
        planned, found = source.fingerprints.get(name), bundle.info.fingerprint
        if planned is not None and found != planned:
            raise ModelError(
                f"{source.bundles[name]}: the bundle was written anew while the run was at work; "
                f"expected version {planned[:16]}, found {found[:16]}",
                "run the same command again: it scores everything with the new bundle",
            )


def _share_gpu(compute: ElasticCompute, runtime: Runtime) -> None:
    """Keep to this worker's part of the memory of a GPU: what it may not have is out of memory, and batches shrink."""
    if runtime.device.type == "cuda" and isinstance(compute, ScoringCompute) and compute.workers_per_gpu > 1:
        torch.cuda.set_per_process_memory_fraction(1 / compute.workers_per_gpu)


def _member(info: BundleInfo, uri: str) -> Member:
    return Member(info, find_task(info.task, uri), Learned(info.labels, info.options))


def _load_pass(
    names: list[str],
    bundles: Mapping[str, Bundle],
    members: Mapping[str, Member],
    runtime: Runtime,
    embedded: frozenset[str],
) -> _Pass:
    first = names[0]
    with_spans = any(members[name].task.needs_spans for name in names)
    options = replace(token_options(members[first].info, members[first].task), with_spans=with_spans)
    plain = load_tokenizer(bundles[first].path)
    groups: list[tuple[list[str], list[Head]]] = []
    for name in names:
        info = members[name].info
        network = load_network(bundles[name].path, members[name].task.head_class)
        # A bundle without a head has nothing else to say.
        is_wanted = name in embedded or network.base_model is network
        head = Head(network, EmbeddingOptions(info.pooling, info.normalize) if is_wanted else None)
        for known, heads in groups:
            if all(shares_encoder(other.network, network) for other in heads):  # poolers may differ between any two
                known.append(name)
                heads.append(head)
                break
        else:
            groups.append(([name], [head]))
    padding = Padding.of(plain)
    return _Pass(
        TextTokenizer(plain, options), [(known, EncoderModel(heads, runtime, padding)) for known, heads in groups]
    )
