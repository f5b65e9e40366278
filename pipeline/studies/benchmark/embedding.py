"""Texts -> embeddings: bertmill, Sentence Transformers, OpenVINO, ONNX Runtime, and the bare model as a bound.

Everyone gets the same texts as Python strings or Arrow, cuts at the same length, pools by the mean and normalises.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import AutoModel

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows, pad_rows
from pipeline.studies.benchmark.rounds import Contender, find_fastest

FloatArray = npt.NDArray[np.float32]
Inference = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], FloatArray]
"""Ids and mask [B, S] -> token states [B, S, H]."""
_MEAN = EmbeddingOptions("mean", normalize=True)
_PEER_BATCH_ROWS = (32, 64, 128, 256)
_PROBE_SHARE = 8
_ROWS_AT_A_TIME = 32


@dataclass(frozen=True)
class EmbeddingWork:
    """What everyone does: embed these texts with this encoder.

    Attributes:
        encoder: A directory.
        texts: Strings [R].
        max_length: Tokens kept of each.
        runtime: Device and precision.
        num_threads: Cores of everyone.
    """

    encoder: str
    texts: pa.ChunkedArray
    max_length: int
    runtime: Runtime
    num_threads: int

    def tokenize(self) -> TokenRows:
        """Token ids, as bertmill makes them."""
        return TextTokenizer(load_tokenizer(self.encoder), TokenOptions(self.max_length)).encode(self.texts)


def embedding_contenders(work: EmbeddingWork) -> tuple[list[Contender], dict[str, str]]:
    """Everyone who can run here, bertmill first and the reference in fp32 second; and why others cannot."""
    sentences = (_default_sentence_transformers(work), _best_sentence_transformers(work))
    contenders = [_bertmill(work), *sentences, bare_model(work), *_without_parts(work)]
    missing = {}
    for name, packages, compile_model in _COMPILERS:
        lacking = [package for package in packages if importlib.util.find_spec(package) is None]
        if lacking:
            missing[name] = f"{' and '.join(lacking)} not installed"
        elif work.runtime.device.type == "cpu":
            contenders.append(_compiled(work, name, compile_model))
    return contenders, missing


def _bertmill(work: EmbeddingWork) -> Contender:
    embed = _embedder(work, load_network(work.encoder, "AutoModel"))
    return Contender("bertmill", lambda: embed(work.texts))


def _without_parts(work: EmbeddingWork) -> list[Contender]:
    """Without what makes bertmill fast: transformers' layers over rectangles, of a whole shard or of few texts."""
    network = load_network(work.encoder, "AutoModel")
    network.set_attn_implementation("sdpa")
    embed = _embedder(work, network)

    def a_few_at_a_time() -> FloatArray:
        starts = range(0, len(work.texts), _ROWS_AT_A_TIME)
        return np.concatenate([embed(work.texts.slice(start, _ROWS_AT_A_TIME)) for start in starts])

    return [
        Contender("bertmill without packs", lambda: embed(work.texts)),
        Contender(f"bertmill without packs, {_ROWS_AT_A_TIME} texts at a time", a_few_at_a_time),
    ]


def _embedder(work: EmbeddingWork, network: Any) -> Callable[[pa.ChunkedArray], FloatArray]:
    """Texts to embeddings as a worker makes them."""
    tokenizer = load_tokenizer(work.encoder)
    encode = TextTokenizer(tokenizer, TokenOptions(work.max_length)).encode
    model = EncoderModel([Head(network, _MEAN)], work.runtime, Padding.of(tokenizer))
    return lambda texts: model.run(encode(texts))[0].embeddings


def _default_sentence_transformers(work: EmbeddingWork) -> Contender:
    encode, texts = _sentence_encoder(work, torch.float32), work.texts.to_pylist()
    return Contender("Sentence Transformers, fp32, batches of 32 (its default)", lambda: encode(texts, 32))


def _best_sentence_transformers(work: EmbeddingWork) -> Contender:
    is_half = work.runtime.autocast_dtype is torch.bfloat16
    encode = _sentence_encoder(work, torch.bfloat16 if is_half else torch.float32)
    texts = work.texts.to_pylist()
    rows = find_fastest({rows: partial(encode, texts[::_PROBE_SHARE], rows) for rows in _PEER_BATCH_ROWS})
    name = f"Sentence Transformers, {'bf16' if is_half else 'fp32'}, batches of {rows} (its best)"
    return Contender(name, lambda: encode(texts, rows))


def _sentence_encoder(work: EmbeddingWork, dtype: torch.dtype) -> Callable[[list[str], int], FloatArray]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    words = Transformer(work.encoder, max_seq_length=work.max_length, model_kwargs={"dtype": dtype})
    pooling = Pooling(words.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[words, pooling, Normalize()], device=str(work.runtime.device))

    def encode(texts: list[str], batch_rows: int) -> FloatArray:
        vectors = model.encode(texts, batch_size=batch_rows, convert_to_tensor=True, show_progress_bar=False)
        return np.asarray(vectors.float().cpu().numpy())

    return encode


def bare_model(work: EmbeddingWork) -> Contender:
    """The model alone: texts tokenised before, batches sorted, no pooling."""
    rows, padding = work.tokenize(), Padding.of(load_tokenizer(work.encoder))
    network = _plain_model(work.encoder).to(work.runtime.device).eval()
    batches = [
        _to_device(pad_rows(rows, part, padding), work) for part in plan_batches(rows.lengths, work.runtime.budget)
    ]

    def run() -> None:
        with torch.inference_mode(), work.runtime.autocast():
            for batch in batches:
                network(**batch)
        if work.runtime.device.type == "cuda":
            torch.cuda.synchronize()

    return Contender("the bare model in transformers, tokens given, sorted, no pooling", run)


def _plain_model(encoder: str) -> Any:
    """Transformers' own model in fp32, without anything of bertmill."""
    return AutoModel.from_pretrained(encoder, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False)


def _to_device(batch: Any, work: EmbeddingWork) -> dict[str, torch.Tensor]:
    arrays = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS}
    return {name: torch.from_numpy(array).to(work.runtime.device) for name, array in arrays.items()}


def _compiled(work: EmbeddingWork, name: str, compile_model: Callable[[EmbeddingWork], Inference]) -> Contender:
    """A compiled model over sorted batches, with pooling."""
    infer = compile_model(work)
    encode = TextTokenizer(load_tokenizer(work.encoder), TokenOptions(work.max_length)).encode
    padding, budget = Padding.of(load_tokenizer(work.encoder)), BatchBudget(work.runtime.budget.tokens, 1_024)

    def run() -> FloatArray:
        rows = encode(work.texts)
        vectors = np.zeros((len(rows), 0), np.float32)
        for part in plan_batches(rows.lengths, budget):
            batch = pad_rows(rows, part, padding)
            states_BSH, mask_BS1 = infer(batch.ids_BS, batch.mask_BS), batch.mask_BS[..., None]
            pooled = (states_BSH * mask_BS1).sum(axis=1) / mask_BS1.sum(axis=1)
            if not vectors.shape[1]:
                vectors = np.zeros((len(rows), pooled.shape[1]), np.float32)
            vectors[part] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    return Contender(f"{name}, sorted batches", run)


def _compile_openvino(work: EmbeddingWork) -> Inference:
    """In the same precision."""
    import openvino

    network = _plain_model(work.encoder).eval()
    example = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    shape = openvino.PartialShape([-1, -1])
    converted = openvino.convert_model(_States(network), example_input=example, input=[shape, shape])
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if work.runtime.autocast_dtype is torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": work.num_threads,
    }
    request = openvino.compile_model(converted, "CPU", options).create_infer_request()
    return lambda ids_BS, mask_BS: np.asarray(request.infer([ids_BS, mask_BS])[0])


def _compile_onnx(work: EmbeddingWork) -> Inference:
    """In fp32, which is what ONNX Runtime computes a float model in on CPU."""
    import onnxruntime

    names = ("input_ids", "attention_mask")
    example = {name: torch.ones(2, 8, dtype=torch.long) for name in names}
    free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in names}
    network = _States(_plain_model(work.encoder)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(network, (), path, kwargs=example, dynamic_shapes=free, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.num_threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids_BS, mask_BS: np.asarray(session.run(None, dict(zip(names, (ids_BS, mask_BS), strict=True)))[0])


class _States(torch.nn.Module):
    """Ids and mask in, token states out: what can be traced."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self._network(input_ids=input_ids, attention_mask=attention_mask)[0]
        return states


_COMPILERS = (
    ("OpenVINO", ("openvino",), _compile_openvino),
    ("ONNX Runtime, fp32", ("onnxruntime", "onnxscript"), _compile_onnx),
)
