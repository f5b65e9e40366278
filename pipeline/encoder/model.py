"""A loaded model: one forward pass gives the head's logits and the encoder's embedding.

Loading never runs code from a model directory (`trust_remote_code` stays off) and reads safetensors only.
"""

from __future__ import annotations

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
from pipeline.encoder.pooling import normalize_rows, pool_tokens
from pipeline.encoder.tokenize import TokenRows, pad_rows
from pipeline.errors import ModelError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How token states become a row's embedding."""

    pooling: str
    normalize: bool


@dataclass(frozen=True)
class ModelOutputs:
    """What one model says about some rows, in the rows' own order.

    Attributes:
        logits: float32 [rows, classes].
        embeddings: float32 [rows, hidden].
        finite: bool [rows]; False where logits or embedding hold NaN or infinity even in fp32.
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
        raise ModelError(
            f"{source}: a {type(config).__name__.removesuffix('Config')} model has no {head_class} head",
            "choose an encoder of the BERT family (BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, MPNet, ...)",
        ) from None
    except Exception as error:
        raise ModelError(
            f"{source}: the model cannot be loaded: {_first_line(error)}",
            "expected a Hugging Face directory with config.json and model.safetensors, or an id of a reachable hub",
        ) from None


class EncoderModel:
    """A network on its device, run over ragged token rows.

    As a context manager it takes its hook off the network at the end, for use in the middle of training.

    Args:
        network: A transformers model with a head; `base_model` is its encoder.
        runtime: Device, precision and batch budget.
        embedding: How embeddings are pooled.
        pad_id: The tokenizer's padding id.
    """

    def __init__(self, network: Any, runtime: Runtime, embedding: EmbeddingOptions, pad_id: int) -> None:
        self.network = network.to(runtime.device).eval()
        self.runtime = runtime
        self._embedding = embedding
        self._pad_id = pad_id
        self._states_BSH: torch.Tensor | None = None
        # A hook gets at the last hidden states of any family without output_hidden_states, which would keep
        # every layer's, and without calling encoder and head apart, which differs by family.
        self._hook = network.base_model.register_forward_hook(self._keep_states)

    def __enter__(self) -> EncoderModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()

    def run(self, rows: TokenRows) -> ModelOutputs:
        """Run every row once, in batches of similar length; rows that are not finite run again in fp32."""
        logits: FloatArray | None = None
        embeddings: FloatArray | None = None
        num_padded_tokens = 0
        for indices in plan_batches(rows.lengths, self.runtime.budget):
            logits_BC, pooled_BH, num_padded = self._run_batch(rows, indices, self.runtime.autocast_bf16)
            num_padded_tokens += num_padded
            if logits is None or embeddings is None:
                logits = np.empty((len(rows), logits_BC.shape[1]), np.float32)
                embeddings = np.empty((len(rows), pooled_BH.shape[1]), np.float32)
            logits[indices], embeddings[indices] = logits_BC, pooled_BH
        if logits is None or embeddings is None:
            return ModelOutputs(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), np.zeros(0, np.bool_), 0)
        return self._rerun_non_finite(
            rows, ModelOutputs(logits, embeddings, _finite(logits, embeddings), num_padded_tokens)
        )

    def _rerun_non_finite(self, rows: TokenRows, outputs: ModelOutputs) -> ModelOutputs:
        bad = np.flatnonzero(~outputs.finite)
        if not len(bad) or not self.runtime.autocast_bf16:
            return outputs
        for index in bad:
            one = np.array([index])
            outputs.logits[one], outputs.embeddings[one], _ = self._run_batch(rows, one, autocast_bf16=False)
        finite = _finite(outputs.logits, outputs.embeddings)
        return ModelOutputs(outputs.logits, outputs.embeddings, finite, outputs.num_padded_tokens)

    def _run_batch(
        self, rows: TokenRows, indices: npt.NDArray[np.int64], autocast_bf16: bool
    ) -> tuple[FloatArray, FloatArray, int]:
        device = self.runtime.device
        ids_BS, mask_BS = (torch.from_numpy(array).to(device) for array in pad_rows(rows, indices, self._pad_id))
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast_bf16):
            logits_BC = self.network(input_ids=ids_BS, attention_mask=mask_BS).logits
        assert self._states_BSH is not None
        with torch.inference_mode():
            pooled_BH = pool_tokens(self._states_BSH, mask_BS, self._embedding.pooling)
            if self._embedding.normalize:
                pooled_BH = normalize_rows(pooled_BH)
        self._states_BSH = None
        return logits_BC.float().cpu().numpy(), pooled_BH.cpu().numpy(), int(ids_BS.numel())

    def _keep_states(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._states_BSH = output[0]


def _finite(logits: FloatArray, embeddings: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(logits).all(axis=1) & np.isfinite(embeddings).all(axis=1))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _quiet_transformers() -> None:
    """Silence progress bars and new-head warnings: a new head is what fine-tuning asks for."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
