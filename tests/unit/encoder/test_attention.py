from __future__ import annotations

import os

import pytest
import torch
from transformers import BertConfig

from pipeline.config import ComputeConfig
from pipeline.encoder import attention
from pipeline.encoder.attention import attention_kernel, choose_runtime, set_threads, wants_bf16
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


@pytest.mark.parametrize(
    ("precision", "cpu_can", "expected"),
    [("fp32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_precision_is_as_told_or_what_the_cpu_multiplies(
    precision: str, cpu_can: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "cpu_has_bf16", lambda: cpu_can)
    assert wants_bf16(ComputeConfig(precision=precision), use_gpu=False) is expected


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_is_on_only_for_bf16(precision: str, dtype: torch.dtype) -> None:
    runtime = choose_runtime(ComputeConfig(precision=precision))
    with runtime.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == dtype


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
