from __future__ import annotations

import numpy as np
import torch

from pipeline.finetune.optimizer import make_optimizer, set_learning_rate
from pipeline.finetune.spec import TrainingConfig
from tests.unit.finetune.training import join

BETAS, EPSILON = (0.9, 0.999), 1e-8


def test_fused_steps_are_those_of_the_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64 beside the fused kernel in float32."""
    joined = join()
    config = TrainingConfig(learning_rate=1e-2, head_learning_rate=3e-2, weight_decay=0.1)
    optimizer = make_optimizer(joined, config)
    assert all(group["fused"] for group in optimizer.param_groups)
    named = dict(joined.network("").named_parameters())
    expected = {name: weights.detach().double().numpy() for name, weights in named.items()}
    moments = {name: (np.zeros_like(values), np.zeros_like(values)) for name, values in expected.items()}
    draw = torch.Generator().manual_seed(3)
    for step in range(1, 6):
        set_learning_rate(optimizer, 1 / step)
        for name, weights in named.items():
            weights.grad = torch.randn(weights.shape, generator=draw)
            gradient = weights.grad.double().numpy()
            mean, square = moments[name]
            moments[name] = mean, square = (
                BETAS[0] * mean + (1 - BETAS[0]) * gradient,
                BETAS[1] * square + (1 - BETAS[1]) * gradient**2,
            )
            rate = (3e-2 if name.startswith("classifier") else 1e-2) / step
            decay = 0.1 if weights.ndim > 1 else 0.0
            update = (mean / (1 - BETAS[0] ** step)) / (np.sqrt(square / (1 - BETAS[1] ** step)) + EPSILON)
            expected[name] = expected[name] * (1 - rate * decay) - rate * update
        optimizer.step()
    for name, weights in named.items():
        np.testing.assert_allclose(weights.detach().numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
