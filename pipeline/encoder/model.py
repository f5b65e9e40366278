"""A loaded model: one forward pass gives the head's logits and the encoder's embedding.

Loading never runs code from a model directory (`trust_remote_code` stays off) and reads safetensors only.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.encoder.attention import Runtime, attention_kernel
from pipeline.encoder.batching import plan_batches
from pipeline.encoder.pooling import merge_windows, pool_tokens
from pipeline.encoder.tokenize import PaddedBatch, Padding, TokenRows, flat_positions, pad_rows
from pipeline.errors import ModelError

FloatArray = npt.NDArray[np.float32]
_POSITIONS_AFTER_PAD = frozenset(["roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer"])
_EXPECTED_MODEL = (
    "expected a Hugging Face directory with config.json and model.safetensors, or an id of a reachable hub"
)


@dataclass(frozen=True)
class EmbeddingOptions:
    """How token states become a row's embedding."""

    pooling: str
    normalize: bool


@dataclass(frozen=True)
class ModelOutputs:
    """What one model says about some rows, in the rows' own order. R rows, T tokens of all windows, C outputs.

    Attributes:
        logits: float32; [R, C] from a head over rows (the mean over a row's windows), [T, C] from one over tokens,
            [R, 0] from a model without a head.
        embeddings: float32 [R, hidden].
        finite: bool [R]; False where logits or embedding hold NaN or infinity even in fp32.
        num_padded_tokens: Tokens computed, padding included.
    """

    logits: FloatArray
    embeddings: FloatArray
    finite: npt.NDArray[np.bool_]
    num_padded_tokens: int


def load_tokenizer(source: str | Path) -> Any:
    """Load a tokenizer.

    Raises:
        ModelError: it cannot be loaded.
    """
    _quiet_transformers()
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{source}: its tokenizer cannot be loaded: {_first_line(error)}",
            "save the tokenizer beside the weights with tokenizer.save_pretrained(directory)",
        ) from None


def check_family(source: str, head_class: str, max_length: int) -> None:
    """Make sure a model's family has a head and positions for so many tokens, from its configuration alone.

    Raises:
        ModelError: it has not, or the configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{source}: config.json cannot be read: {_first_line(error)}", _EXPECTED_MODEL) from None
    if type(config) not in getattr(transformers, head_class)._model_mapping:
        raise _no_head(source, config, head_class)
    num_positions = getattr(config, "max_position_embeddings", None)
    if config.model_type in _POSITIONS_AFTER_PAD and num_positions:
        num_positions -= config.pad_token_id + 1
    if num_positions and 0 < num_positions < max_length:
        raise ModelError(
            f"{source}: has positions for {num_positions} tokens, and max_length is {max_length}",
            f"set max_length to {num_positions} or less; long_text: window keeps longer texts",
        )


def _no_head(source: str | Path, config: Any, head_class: str) -> ModelError:
    family = type(config).__name__.removesuffix("Config")
    return ModelError(
        f"{source}: a {family} model has no {head_class} head",
        "choose an encoder of the BERT family (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet, ...)",
    )


def load_network(source: str | Path, head_class: str, **config_changes: Any) -> Any:
    """Load weights with a task's head, in fp32.

    Args:
        source: A Hugging Face directory or id.
        head_class: Name of the transformers Auto class that has the head.
        config_changes: Passed to the configuration (labels of a new head, for one).

    Raises:
        ModelError: weights or configuration are missing or do not fit the head.
    """
    _quiet_transformers()
    auto_class = getattr(transformers, head_class)
    try:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False, **config_changes)
        model_class = auto_class._model_mapping[type(config)]
        return auto_class.from_pretrained(
            str(source),
            config=config,
            dtype=torch.float32,
            attn_implementation=attention_kernel(model_class),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except KeyError:
        raise _no_head(source, config, head_class) from None
    except Exception as error:
        raise ModelError(
            f"{source}: the model cannot be loaded: {_first_line(error)}",
            _EXPECTED_MODEL,
        ) from None


def model_inputs(batch: PaddedBatch, network: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """A padded batch as keyword arguments of a network; segments only where it takes them."""
    inputs = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS}
    if batch.types_BS is not None and "token_type_ids" in inspect.signature(network.forward).parameters:
        inputs["token_type_ids"] = batch.types_BS
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in inputs.items()}


def head_logits(output: Any) -> torch.Tensor | None:
    """The logits of any head: [B, C] over rows, [B, S, C] over tokens (question answering: C is start and end)."""
    if getattr(output, "start_logits", None) is not None:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: torch.Tensor | None = getattr(output, "logits", None)
    return logits


class EncoderModel:
    """A network on its device, run over ragged token rows.

    As a context manager it takes its hook off the network at the end, for use in the middle of training.

    Args:
        network: A transformers model; `base_model` is its encoder.
        runtime: Device, precision and batch budget.
        embedding: How embeddings are pooled.
        padding: How its tokenizer pads.
    """

    def __init__(self, network: Any, runtime: Runtime, embedding: EmbeddingOptions, padding: Padding) -> None:
        self.network = network.to(runtime.device).eval()
        self.runtime = runtime
        self._embedding = embedding
        self._padding = padding
        self._states_BSH: torch.Tensor | None = None
        # A hook gets at the last hidden states of any family without output_hidden_states, which would keep
        # every layer's, and without calling encoder and head apart, which differs by family.
        self._hook = network.base_model.register_forward_hook(self._keep_states)

    def __enter__(self) -> EncoderModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()

    def run(self, rows: TokenRows) -> ModelOutputs:
        """Run every window once, in batches of similar length; what is not finite runs again in fp32."""
        gathered = _Gathered(rows)
        num_padded_tokens = 0
        for indices in plan_batches(rows.lengths, self.runtime.budget):
            num_padded_tokens += self._run_batch(gathered, indices, self.runtime.autocast_bf16)
        if self.runtime.autocast_bf16:
            for index in np.flatnonzero(~gathered.finite_windows()):
                self._run_batch(gathered, np.array([index]), autocast_bf16=False)
        embeddings = merge_windows(gathered.pooled, rows, self._embedding.pooling, self._embedding.normalize)
        logits = gathered.logits
        if not gathered.is_over_tokens:
            logits = merge_windows(logits, rows, "cls", normalize=False)
        bad_rows = rows.window_rows[~gathered.finite_windows()]
        finite = np.ones(rows.num_rows, np.bool_)
        finite[bad_rows] = False
        return ModelOutputs(logits, embeddings, finite, num_padded_tokens)

    def _run_batch(self, gathered: _Gathered, indices: npt.NDArray[np.int64], autocast_bf16: bool) -> int:
        device = self.runtime.device
        batch = pad_rows(gathered.rows, indices, self._padding)
        inputs = model_inputs(batch, self.network, device)
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast_bf16):
            logits = head_logits(self.network(**inputs))
        assert self._states_BSH is not None
        with torch.inference_mode():
            pooled_BH = pool_tokens(self._states_BSH, inputs["attention_mask"], self._embedding.pooling)
        self._states_BSH = None
        host = np.zeros((len(indices), 0), np.float32) if logits is None else logits.float().cpu().numpy()
        gathered.add(indices, batch, host, pooled_BH.cpu().numpy())
        return int(batch.ids_BS.size)

    def _keep_states(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._states_BSH = output[0]


class _Gathered:
    """Outputs of all windows, put in their places as batches come."""

    def __init__(self, rows: TokenRows) -> None:
        self.rows = rows
        self.is_over_tokens = False
        self.logits: FloatArray = np.zeros((len(rows), 0), np.float32)
        self.pooled: FloatArray = np.zeros((len(rows), 0), np.float32)

    def add(
        self, indices: npt.NDArray[np.int64], batch: PaddedBatch, logits: FloatArray, pooled_BH: FloatArray
    ) -> None:
        if self.pooled.shape[1] == 0:
            self.is_over_tokens = logits.ndim == 3
            places = len(self.rows.ids) if self.is_over_tokens else len(self.rows)
            self.logits = np.zeros((places, logits.shape[-1]), np.float32)
            self.pooled = np.zeros((len(self.rows), pooled_BH.shape[1]), np.float32)
        self.pooled[indices] = pooled_BH
        if self.is_over_tokens:
            self.logits[flat_positions(self.rows, indices)] = logits[batch.mask_BS.astype(bool)]
        else:
            self.logits[indices] = logits

    def finite_windows(self) -> npt.NDArray[np.bool_]:
        """Whether all of a window is finite: bool [W]."""
        finite = np.asarray(np.isfinite(self.pooled).all(axis=1))
        good = np.asarray(np.isfinite(self.logits).all(axis=1))
        if self.is_over_tokens:
            windows = np.repeat(np.arange(len(self.rows)), self.rows.lengths)
            finite[windows[~good]] = False
            return finite
        return np.asarray(finite & good)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _quiet_transformers() -> None:
    """Silence progress bars and new-head warnings: a new head is what fine-tuning asks for."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
