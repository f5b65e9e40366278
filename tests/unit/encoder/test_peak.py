"""The most a device does a second."""

from __future__ import annotations

import pytest
import torch

from pipeline.encoder import peak
from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.peak import find_peak

BUDGET = BatchBudget(10, 10)


def test_a_cpu_is_measured_in_the_precision_of_the_run() -> None:
    found = find_peak(Runtime(torch.device("cpu"), None, BUDGET))
    assert 1e8 < found.flops_per_s < 1e15
    assert found.basis.endswith("float32 matrices of 512 x 512")
    assert "threads: measured when the model was loaded" in found.basis


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_known_gpu_is_looked_up(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H200")
    found = find_peak(Runtime(torch.device("cuda"), dtype, BUDGET))
    assert (found.flops_per_s, found.basis) == (989.4e12, "NVIDIA H200: data sheet, dense, half precision")


@pytest.mark.parametrize(("name", "dtype"), [("NVIDIA H200", None), ("NVIDIA H200 MIG 1g.18gb", torch.bfloat16)])
def test_parts_of_gpus_and_other_precisions_are_measured(
    name: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    monkeypatch.setattr(peak, "_measure", lambda *asked: 1.5e12)
    found = find_peak(Runtime(torch.device("cuda"), dtype, BUDGET))
    assert found.flops_per_s == 1.5e12
    assert found.basis.startswith(f"{name}: measured when the model was loaded, ")
