"""What the hardware and the model's family allow: device, precision, attention kernel, batch budget."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ElasticCompute
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.packed_attention import PACKED, can_pack
from pipeline.errors import ComputeError

# Measured with all-MiniLM-L6-v2 on 2 cores with avx512_bf16: bf16 autocast reaches 27k tokens/s with batches of
# 4,096 tokens, 15k with 16,384 (they fall out of the cache).
_CPU_BATCH = BatchBudget(tokens=4_096, rows=1_024)
_CPU_FP32_BATCH = BatchBudget(tokens=2_048, rows=1_024)  # as many bytes: docs/decisions.md
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
_FIRST_WITH_TENSOR_CORES = (7, 0)
_GPU_BATCH = BatchBudget(tokens=65_536, rows=8_192)

# transformers' code for these mixes precisions in a way that autocast does not take.
_FP32_ONLY = frozenset(["deberta", "xmod"])


@dataclass(frozen=True)
class Runtime:
    """Where a model runs, and what matrices are multiplied in; `autocast_dtype` None is fp32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    budget: BatchBudget

    def autocast(self) -> torch.autocast:
        """A context in which matmuls run in half precision where that was chosen; weights stay fp32 either way."""
        is_half = self.autocast_dtype is not None
        return torch.autocast(self.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=is_half)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Scales losses where gradients are fp16 and would vanish; elsewhere it leaves them alone."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)

    def suited_to(self, config: Any) -> Runtime:
        """The same, in fp32 for families that cannot run in less."""
        return replace(self, autocast_dtype=None) if config.model_type in _FP32_ONLY else self


def choose_runtime(compute: ElasticCompute) -> Runtime:
    """Resolve `auto` on the machine this runs on.

    Raises:
        ComputeError: a GPU is asked for where torch sees none.
    """
    use_gpu = torch.cuda.is_available() if compute.device == "auto" else compute.device == "gpu"
    if use_gpu and not torch.cuda.is_available():
        raise ComputeError(
            "compute.device is gpu, but torch sees no GPU on this machine",
            "set compute.device: auto (or cpu), or run where a GPU and a CUDA build of torch are",
        )
    device = torch.device("cuda" if use_gpu else "cpu")
    dtype = choose_dtype(compute, use_gpu)
    budget = _GPU_BATCH if use_gpu else _CPU_FP32_BATCH if dtype is None else _CPU_BATCH
    if compute.batch_tokens != "auto":
        budget = BatchBudget(compute.batch_tokens, budget.rows)
    return Runtime(device, dtype, budget)


def choose_dtype(compute: ElasticCompute, use_gpu: bool) -> torch.dtype | None:
    """What matrices are multiplied in: as told, or the half precision that the hardware has; None is fp32."""
    if compute.precision != "auto":
        return _PRECISIONS[compute.precision]
    if torch.cuda.is_bf16_supported(including_emulation=False) if use_gpu else cpu_has_bf16():
        return torch.bfloat16
    has_fp16 = use_gpu and torch.cuda.get_device_capability() >= _FIRST_WITH_TENSOR_CORES
    return torch.float16 if has_fp16 else None


@lru_cache(maxsize=1)
def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 dot products (x86 avx512_bf16 or amx_bf16, Arm bf16); False if unknown."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def has_onednn_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this precision here: for bf16 it wants AVX-512, AVX-NE-CONVERT or Arm's bf16."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    has_bf16 = dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32 or has_bf16


def attention_kernel(model_class: Any, config: Any) -> str:
    """`packed` where the family takes packs, else `sdpa` where it has that, else `eager` (DeBERTa, MPNet, XLNet)."""
    if can_pack(config):
        return PACKED
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def set_threads(num_threads: int) -> None:
    """Give this process its share of the cores; actors that each take all of them run slower together."""
    torch.set_num_threads(max(1, num_threads))
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, num_threads)))
