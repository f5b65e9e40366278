"""A step on a GPU is that of the CPU; the CPU's own are in `test_step.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encoder.loading import load_tokenizer
from pipeline.finetune.loop import train
from tests.tiny import make_network
from tests.unit.finetune.training import Notes, context_for, job_for, token_data

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.parametrize(
    ("dtype", "close"), [(None, 1e-4), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)], ids=["fp32", "bf16", "fp16"]
)
def test_losses_on_a_gpu_are_those_of_the_cpu(
    dtype: torch.dtype | None, close: float, tmp_path: Path, encoder_directory: Path
) -> None:
    data = token_data(load_tokenizer(encoder_directory), 80)
    losses = {}
    for kind in ("cpu", "cuda"):
        network, device = make_network(), torch.device(kind)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        context = context_for(data, network, batch_rows=16, learning_rate=1e-3)
        runtime = replace(context.runtime, device=device, autocast_dtype=dtype if kind == "cuda" else None)
        context.joined.to(device)
        notes = Notes(tmp_path / kind)
        train(job_for(replace(context, runtime=runtime, scaler=runtime.make_scaler()), epochs=4), notes.hooks())
        losses[kind] = [status.loss for status in notes.statuses]
    assert len(losses["cpu"]) == 4
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], atol=close)
