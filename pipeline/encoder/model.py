"""A loaded model: one forward pass gives the embedding and the logits of every head on the encoder.

Loading never runs code from a model directory (`trust_remote_code` stays off) and reads safetensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig

from pipeline.encoder.attention import Runtime, attention_kernel
from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.bundle import refuse_adapter
from pipeline.encoder.checks import EXPECTED_MODEL, check_runs, check_weights, no_head
from pipeline.encoder.fast import FastEncoder
from pipeline.encoder.flops import forward_flops
from pipeline.encoder.forward import Encoded, encode, lay_out, reads_firsts_only, takes_packs
from pipeline.encoder.layers import has_known_layers
from pipeline.encoder.loading import quiet_transformers
from pipeline.encoder.outputs import BegunBatch, EmbeddingOptions, GatheredOutputs, IntArray, ModelOutputs
from pipeline.encoder.tokenize import Padding, TokenRows
from pipeline.encoder.transfer import HostCopies
from pipeline.errors import ComputeError, ModelError, first_line

_NOT_OF_THE_ENCODER = frozenset(
    (
        *("architectures", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
        *("classifier_dropout", "summary_last_dropout", "classifier_pooling"),
        *("_name_or_path", "transformers_version", "dtype", "torch_dtype"),
    )
)


def load_network(source: str | Path, head_class: str, is_ready: bool = False, **config_changes: Any) -> Any:
    """Load weights with a task's head, in fp32. A head that the weights lack, or have in another size, is a new one.

    Args:
        source: A Hugging Face directory or id.
        head_class: Name of the transformers Auto class that has the head.
        is_ready: The head is wanted as it is: it must be among the weights.
        config_changes: Passed to the configuration (labels of a new head, for one).

    Raises:
        ModelError: weights or configuration are missing or do not fit the encoder, or it needs more than tokens.
    """
    return load_trainable(source, head_class, is_ready, **config_changes)[0]


def load_trainable(
    source: str | Path, head_class: str, is_ready: bool = False, **config_changes: Any
) -> tuple[Any, frozenset[str]]:
    """`load_network`, and the names of those of its weights that are new.

    Raises:
        ModelError: as `load_network` does.
    """
    quiet_transformers()
    refuse_adapter(source)
    auto_class = getattr(transformers, head_class)
    try:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False, **config_changes)
        config.return_dict = True  # heads' outputs are read by their names, whatever others read them by
        model_class = auto_class._model_mapping[type(config)]
        network, found = auto_class.from_pretrained(
            str(source),
            config=config,
            dtype=torch.float32,
            attn_implementation=attention_kernel(model_class, config),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of a head that was trained for other labels; the encoder's are checked
        )
    except KeyError:
        raise no_head(source, config, head_class) from None
    except Exception as error:
        raise ModelError(
            f"{source}: the model cannot be loaded: {first_line(error)}",
            EXPECTED_MODEL,
        ) from None
    check_weights(source, network, found, is_ready)
    check_runs(source, network)
    return network, frozenset([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])


@dataclass(frozen=True)
class Head:
    """One use of an encoder: a network (whose head runs, if it has one) and how its embedding is pooled, if wanted."""

    network: Any
    embedding: EmbeddingOptions | None

    @property
    def pooling(self) -> str | None:
        """Of the embedding, if it is wanted."""
        return None if self.embedding is None else self.embedding.pooling


def shares_encoder(one: Any, other: Any) -> bool:
    """Whether two networks' encoders are the same weights, so that one forward pass serves both.

    A pooler that only one of them has is part of that one's head.
    """
    ours, theirs = one.base_model.state_dict(), other.base_model.state_dict()
    if _encoder_settings(one) != _encoder_settings(other) or any(
        "pooler." not in name for name in ours.keys() ^ theirs
    ):
        return False
    common = ours.keys() & theirs.keys()
    return all(ours[name].shape == theirs[name].shape and torch.equal(ours[name], theirs[name]) for name in common)


def _encoder_settings(network: Any) -> dict[str, Any]:
    """What of a configuration decides the encoder's output: all but what heads and loading write there."""
    settings: dict[str, Any] = network.config.to_dict()
    return {name: value for name, value in settings.items() if name not in _NOT_OF_THE_ENCODER}


def share_encoder(networks: Sequence[Any]) -> Any:
    """Give networks whose encoders hold the same weights one encoder: the first that has a pooler, else the first.

    Returns:
        That encoder, which now stands in every network that has a head.
    """
    bases = [network.base_model for network in networks]
    encoder = next((base for base in bases if getattr(base, "pooler", None) is not None), bases[0])
    for network in networks:
        if network.base_model is not encoder and network.base_model is not network:
            setattr(network, network.base_model_prefix, encoder)
            network.tie_weights()  # a masked-language model's output is its input embedding
    return encoder


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on a GPU or in the machine's own memory."""
    text = str(error)
    is_cpu = "DefaultCPUAllocator" in text or "not enough memory" in text
    return isinstance(error, torch.OutOfMemoryError) or is_cpu


class EncoderModel:
    """One encoder on its device and any number of heads, run over ragged token rows: one forward pass for all.

    Args:
        heads: Networks whose encoders hold the same weights (`shares_encoder`); they share one from now on.
        runtime: Device, precision and batch budget.
        padding: How their tokenizer pads.
    """

    def __init__(self, heads: Sequence[Head], runtime: Runtime, padding: Padding) -> None:
        self._heads = heads
        self._padding = padding
        self._encoder = share_encoder([head.network for head in heads])
        self.runtime = runtime.suited_to(self._encoder.config)
        self._budget = runtime.budget
        self._is_padded = not takes_packs(self._encoder)
        for network in (self._encoder, *(head.network for head in heads)):
            network.to(runtime.device).eval()
        # fp16 would overflow between layers, where autocast normalises in fp32.
        is_fast = self.runtime.autocast_dtype is torch.bfloat16 and FastEncoder.fits(self._encoder)
        self._fast = FastEncoder(self._encoder, torch.bfloat16) if is_fast else None
        reads_all = any(not reads_firsts_only(head.network, head.pooling) for head in heads)
        self._firsts_only = not (reads_all or self._is_padded) and has_known_layers(self._encoder)

    @property
    def padded_batch(self) -> BatchBudget | None:
        """What a padded batch holds; None where windows are packed."""
        return self._budget if self._is_padded else None

    def flops(self, rows: TokenRows) -> float:
        """FLOP of one pass over these rows, estimated."""
        return forward_flops(self._encoder, rows.lengths, self._firsts_only)

    def run(
        self, rows: TokenRows, after_batch: Callable[[], None] | None = None, in_fp32: bool = False
    ) -> tuple[ModelOutputs, ...]:
        """Run every window once, in batches of similar length; what is not finite runs again in fp32.

        Args:
            rows: The windows.
            after_batch: Called after each batch.
            in_fp32: Whatever the runtime's precision.

        Returns:
            One for each head; a row that is not finite for one head is so for that head only.
        """
        gathered = [GatheredOutputs(rows, number, head.embedding) for number, head in enumerate(self._heads)]
        num_padded_tokens, plain = 0, replace(self.runtime, autocast_dtype=None)
        runtime = plain if in_fp32 else self.runtime
        under_way: BegunBatch | None = None
        with self._with_tf32(runtime):
            for indices in plan_batches(rows.lengths, self._budget, self._is_padded):
                for begun in self._begin_fitting(rows, indices, runtime):
                    num_padded_tokens += begun.num_padded_tokens
                    if under_way is not None:
                        _finish(under_way, gathered)  # while a GPU computes the next one
                    under_way = begun
                if after_batch is not None:
                    after_batch()
        if under_way is not None:
            _finish(under_way, gathered)
        if runtime.autocast_dtype is not None:
            finite = np.logical_and.reduce([part.finite_windows() for part in gathered])
            with self._with_tf32(plain):
                for index in np.flatnonzero(~finite):
                    _finish(self._begin(rows, np.array([index]), plain), gathered)
        return tuple(part.conclude(num_padded_tokens) for part in gathered)

    @contextmanager
    def _with_tf32(self, runtime: Runtime) -> Iterator[None]:
        """Let a GPU multiply in TF32 what a model in half precision runs in fp32.

        TF32 rounds eight times finer than bf16, and is several times faster than fp32, for which GPUs have no tensor
        cores.
        """
        before = torch.get_float32_matmul_precision()
        if self.runtime.autocast_dtype is not None and runtime.autocast_dtype is None and runtime.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _begin_fitting(self, rows: TokenRows, indices: IntArray, runtime: Runtime) -> Iterator[BegunBatch]:
        """Begin a batch in as many parts as memory asks for; a budget that proved too large stays lowered.

        Raises:
            ComputeError: one window alone does not fit.
        """
        pending = [indices]
        while pending:
            whole = pending.pop()
            first, *others = [whole[part] for part in plan_batches(rows.lengths[whole], self._budget, self._is_padded)]
            pending += others[::-1]
            try:
                begun = self._begin(rows, first, runtime)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            else:
                yield begun
                continue
            self._shrink(rows.lengths[first], reason)  # the error, and with it what the batch holds, is gone here
            pending.append(first)

    def _shrink(self, lengths: IntArray, reason: str) -> None:
        """Lower the budget to half of windows that did not fit."""
        if len(lengths) == 1:
            raise ComputeError(
                f"one text of {lengths[0]} tokens does not fit into the memory of {self.runtime.device}: {reason}",
                "use a device with more memory, or a bundle with a smaller max_length",
            )
        num_tokens = lengths.max() * len(lengths) if self._is_padded else lengths.sum()
        self._budget = replace(self._budget, tokens=int(num_tokens) // 2)
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()  # what was given up is in pieces of other sizes

    def _begin(self, rows: TokenRows, indices: IntArray, runtime: Runtime) -> BegunBatch:
        batch = lay_out(rows, indices, self._encoder, self._padding, runtime.device)
        with torch.inference_mode():
            with runtime.autocast():
                encoded = (
                    Encoded(self._encoder, batch, self._fast(batch, self._firsts_only), self._firsts_only)
                    if self._fast is not None and runtime.autocast_dtype is not None
                    else encode(self._encoder, batch, self._firsts_only)
                )
            encoded = encoded.in_fp32()
            given = {str(number): encoded.logits(head.network) for number, head in enumerate(self._heads)}
            logits = {name: values for name, values in given.items() if values is not None}
            over_tokens = frozenset(name for name, values in logits.items() if values.ndim == 3)
            for name in over_tokens:
                logits[name] = logits[name].flatten(0, 1)[batch.cells]
            pooled = {name: encoded.pool(name) for name in {head.pooling for head in self._heads} if name is not None}
            return BegunBatch(indices, batch.num_computed_tokens, over_tokens, HostCopies({**logits, **pooled}))


def _finish(batch: BegunBatch, gathered: list[GatheredOutputs]) -> None:
    """Wait for a batch's outputs and give each head its own."""
    found = batch.copies.arrays()
    for part in gathered:
        part.add(batch, found)
