from __future__ import annotations

import os

import pytest
import torch
from transformers import BertConfig

from pipeline.config import ComputeConfig
from pipeline.encoder import attention
from pipeline.encoder.attention import attention_kernel, choose_dtype, choose_runtime, set_threads
from pipeline.errors import ComputeError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_the_cpu_is_used(device: str) -> None:
    assert choose_runtime(ComputeConfig(device=device)).device.type == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ComputeError, match=r"compute\.device is gpu, but torch sees no GPU") as caught:
        choose_runtime(ComputeConfig(device="gpu"))
    assert "compute.device: auto" in caught.value.remedy


@pytest.mark.usefixtures("no_gpu")
def test_batch_tokens_replace_the_budget() -> None:
    default, asked = choose_runtime(ComputeConfig()), choose_runtime(ComputeConfig(batch_tokens=333))
    assert asked.budget.tokens == 333
    assert asked.budget.rows == default.budget.rows
    assert default.budget.tokens > 333


@pytest.mark.usefixtures("no_gpu")
def test_batches_of_a_cpu_have_as_many_bytes_in_any_precision() -> None:
    half, whole = (choose_runtime(ComputeConfig(precision=name)).budget for name in ("bf16", "fp32"))
    assert half.tokens * 2 == whole.tokens * 4
    assert half.rows == whole.rows


@pytest.mark.parametrize(
    ("precision", "cpu_can", "expected"),
    [
        ("fp32", True, None),
        ("bf16", False, torch.bfloat16),
        ("fp16", True, torch.float16),
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
    ],
)
def test_precision_is_as_told_or_what_the_cpu_multiplies(
    precision: str, cpu_can: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "cpu_has_bf16", lambda: cpu_can)
    assert choose_dtype(ComputeConfig(precision=precision), use_gpu=False) is expected


@pytest.mark.parametrize(
    ("capability", "has_bf16", "expected"),
    [
        ((9, 0), True, torch.bfloat16),
        ((7, 5), False, torch.float16),
        ((7, 0), False, torch.float16),
        ((6, 1), False, None),
    ],
)
def test_a_gpu_multiplies_in_the_half_precision_it_has(
    capability: tuple[int, int], has_bf16: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 from Ampere on; fp16 on the tensor cores of Volta and Turing; older ones gain nothing."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_dtype(ComputeConfig(), use_gpu=True) is expected
    assert choose_dtype(ComputeConfig(precision="fp32"), use_gpu=True) is None


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_matrices_are_multiplied_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    runtime = choose_runtime(ComputeConfig(precision=precision))
    with runtime.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == dtype
    assert runtime.make_scaler().is_enabled() is (precision == "fp16")


def test_families_without_sdpa_fall_back_to_eager() -> None:
    class WithSdpa:
        _supports_sdpa = True

    class EagerOnly:
        _supports_sdpa = False

    unknown = BertConfig()
    unknown.model_type = "of another kind"
    assert [attention_kernel(kind, unknown) for kind in (WithSdpa, EagerOnly, object)] == ["sdpa", "eager", "eager"]
    assert attention_kernel(WithSdpa, BertConfig()) == "packed"


def test_a_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("RAYON_NUM_THREADS", "8")
    try:
        set_threads(0)
        assert torch.get_num_threads() == 1
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
        assert os.environ["RAYON_NUM_THREADS"] == "8"
    finally:
        torch.set_num_threads(before)
