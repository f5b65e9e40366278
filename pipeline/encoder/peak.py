"""The most a device multiplies in a second, to say what share of that a model reaches."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from pipeline.encoder.attention import Runtime, has_onednn_kernels

# Dense tensor-core TFLOP/s in bf16 and fp16 by the name that torch gives, from NVIDIA's data sheets (there with
# sparsity: twice as much). Names in full, since a part of a GPU (MIG) has a name that begins alike.
_HALF_PRECISION_TFLOPS = {
    "NVIDIA A10": 125.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.4,
    "NVIDIA L4": 121.0,
    "NVIDIA L40S": 362.0,
}
_SIZES = {"cpu": 512, "cuda": 8192}
_PROBE_S, _MIN_TRIES, _MAX_TRIES = 0.2, 2, 50


@dataclass(frozen=True)
class PeakRate:
    """FLOP a second, and where that is known from."""

    flops_per_s: float
    basis: str


def find_peak(runtime: Runtime) -> PeakRate:
    """A known GPU's rate in half precision; else what square matrices reach here and now, in the run's precision.

    Other work on the machine lowers what is measured. It is the best of some tries of a few tenths of a second in all.
    """
    dtype = runtime.autocast_dtype or torch.float32
    name = device_name(runtime.device)
    if dtype in (torch.bfloat16, torch.float16) and name in _HALF_PRECISION_TFLOPS:
        return PeakRate(_HALF_PRECISION_TFLOPS[name] * 1e12, f"{name}: data sheet, dense, half precision")
    size, precision = _SIZES[runtime.device.type], str(dtype).removeprefix("torch.")
    rate = _measure(dtype, runtime.device, size, torch.get_num_threads())
    return PeakRate(rate, f"{name}: measured when the model was loaded, {precision} matrices of {size} x {size}")


def device_name(device: torch.device) -> str:
    """What computes, for people: the GPU's name, or the processor's and how many threads of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()}, {torch.get_num_threads()} threads"


@lru_cache(maxsize=8)
def _measure(dtype: torch.dtype, device: torch.device, size: int, _num_threads: int) -> float:
    one, other = (torch.ones((size, size), dtype=dtype, device=device) for _ in range(2))
    best_s, began_s = float("inf"), time.perf_counter()
    with torch.inference_mode():
        for multiply in _kernels(one, other):
            multiply()  # the first call of a kernel sets it up
            for tried in range(_MAX_TRIES):
                if tried >= _MIN_TRIES and time.perf_counter() - began_s > _PROBE_S:
                    break
                _wait(device)
                started_s = time.perf_counter()
                multiply()
                _wait(device)
                best_s = min(best_s, time.perf_counter() - started_s)
    return 2.0 * size**3 / best_s


def _kernels(one: torch.Tensor, other: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    """Ways to multiply: torch's, and on a CPU oneDNN's, which may be the faster one."""
    found = [lambda: one @ other]
    if one.device.type == "cpu" and has_onednn_kernels(one.dtype):
        laid_out = torch.ops.mkldnn._reorder_linear_weight(other, len(one))
        found.insert(0, lambda: torch.ops.mkldnn._linear_pointwise(one, laid_out, None, "none", [], ""))
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
