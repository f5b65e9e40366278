"""Batches that do not fit into memory are run in parts, and the next ones are planned smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, is_out_of_memory
from pipeline.encoder.outputs import BegunBatch, EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows
from pipeline.errors import ComputeError
from tests.tiny import make_network, make_rows

ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: 9 bytes")
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), ON_CPU]
BUDGET = BatchBudget(tokens=400, rows=64)


class SmallMachine:
    """A model whose machine has room for so many tokens."""

    def __init__(self, room_tokens: int, error: RuntimeError) -> None:
        self.model = EncoderModel(
            [Head(make_network(), EmbeddingOptions("mean", normalize=False))],
            Runtime(torch.device("cpu"), None, BUDGET),
            Padding(0),
        )
        self.sizes: list[int] = []
        self.num_failures = 0
        begin = self.model._begin

        def begin_if_it_fits(rows: TokenRows, indices: npt.NDArray[np.int64], runtime: Runtime) -> BegunBatch:
            size = int(rows.lengths[indices].sum())
            if size > room_tokens:
                self.num_failures += 1
                raise error
            self.sizes.append(size)
            return begin(rows, indices, runtime)

        self.model._begin = begin_if_it_fits  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def rows(encoder_directory: Path) -> TokenRows:
    return TextTokenizer(load_tokenizer(encoder_directory), TokenOptions(32)).encode(make_rows(120)["text"])


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu"])
def test_outputs_are_those_of_a_machine_with_room(rows: TokenRows, error: RuntimeError) -> None:
    (expected,) = SmallMachine(10_000, error).model.run(rows)
    small = SmallMachine(60, error)
    (outputs,) = small.model.run(rows)
    np.testing.assert_allclose(outputs.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(outputs.logits, expected.logits, atol=1e-5)
    assert outputs.num_padded_tokens == sum(small.sizes)
    assert small.num_failures == 3, "400 tokens, about 200, about 100"


def test_the_smaller_budget_is_remembered(rows: TokenRows) -> None:
    small = SmallMachine(60, ERRORS[0])
    small.model.run(rows)
    failed = small.num_failures
    small.model.run(rows)
    assert small.num_failures == failed
    assert SmallMachine(60, ERRORS[0]).model._budget == BUDGET, "of this process's model only"


def test_one_text_that_does_not_fit_is_an_error_that_says_so(rows: TokenRows) -> None:
    longest = int(rows.lengths.max())
    small = SmallMachine(longest - 1, ERRORS[0])
    with pytest.raises(ComputeError, match=rf"one text of {longest} tokens does not fit into the memory of cpu: CUDA"):
        small.model.run(rows)


def test_other_failures_are_not_retried(rows: TokenRows) -> None:
    small = SmallMachine(0, RuntimeError("expected scalar type Float"))
    with pytest.raises(RuntimeError, match="expected scalar type"):
        small.model.run(rows)
    assert small.num_failures == 1


@pytest.mark.parametrize("error", [*ERRORS, RuntimeError("CPU: not enough memory: you tried to allocate 9 bytes")])
def test_what_counts_as_out_of_memory(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
