"""A GPU gives what the CPU gives, for every family and every head; its CPU twin is `test_families.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.model import EncoderModel, Head
from pipeline.encoder.outputs import EmbeddingOptions, ModelOutputs
from pipeline.encoder.transfer import HostCopies, to_device
from tests.unit.encoder.families import EVERY
from tests.unit.encoder.test_families import CASES, HEADS, OTHERS, TEXTS, encoded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
GPU = torch.device("cuda")


def outputs_on(device: torch.device, family: str, head: str, dtype: torch.dtype | None, in_fp32: bool) -> ModelOutputs:
    """Of pairs in several small batches, so that one is under way while the next is computed."""
    network = EVERY[family].network(HEADS[head])
    rows, padding = encoded(family, TEXTS * 4, OTHERS * 4)
    runtime = Runtime(device, dtype, BatchBudget(tokens=100, rows=64))
    (outputs,) = EncoderModel([Head(network, EmbeddingOptions("mean", False))], runtime, padding).run(
        rows, in_fp32=in_fp32
    )
    return outputs


@pytest.mark.parametrize(
    ("dtype", "in_fp32", "close"),
    [(None, False, 1e-4), (torch.bfloat16, False, 0.1), (torch.float16, False, 2e-2), (torch.bfloat16, True, 1e-2)],
    ids=["fp32", "bf16", "fp16", "bf16 in tf32"],
)
@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_gpu_gives_what_the_cpu_gives(
    family: str, head: str, dtype: torch.dtype | None, in_fp32: bool, close: float
) -> None:
    found = outputs_on(GPU, family, head, dtype, in_fp32)
    expected = outputs_on(torch.device("cpu"), family, head, None, in_fp32=False)
    np.testing.assert_allclose(found.logits, expected.logits, atol=close, rtol=close)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=close, rtol=close)
    assert found.finite.all()


def test_arrays_come_back_as_they_went() -> None:
    values = np.arange(100_000, dtype=np.float32).reshape(100, -1)
    there = to_device(values, GPU)
    copies = HostCopies({"twice": there * 2, "once": there})
    torch.mm(there, there.T)  # other work, meanwhile
    found = copies.arrays()
    np.testing.assert_array_equal(found["twice"], values * 2)
    np.testing.assert_array_equal(found["once"], values)
