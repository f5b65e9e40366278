"""Our layers over packs give what transformers' modules give: outputs and gradients, with dropout and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder import trained
from pipeline.encoder.dropout import quicken_dropout
from pipeline.encoder.forward import encode, lay_out, reads_firsts_only
from pipeline.encoder.heads import HeadCall, JoinedHeads
from pipeline.encoder.outputs import EmbeddingOptions
from tests.unit.encoder.families import EVERY, FAMILIES
from tests.unit.encoder.test_families import HEADS, OTHERS, TEXTS, encoded

CPU = torch.device("cpu")
KNOWN = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "camembert")
INDICES = np.array([3, 0, 1, 0, 2])
Found = tuple[torch.Tensor, dict[str, torch.Tensor]]


def test_only_these_families_have_known_layers() -> None:
    networks = {name: family.network("AutoModel") for name, family in EVERY.items()}
    assert tuple(name for name, network in networks.items() if trained.runs_here(network)) == KNOWN


def with_dropout(network: Any, states: float, weights: float) -> Any:
    """In training mode; attention weights have their own share."""
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Dropout):
            is_of_weights = name.endswith(("self.dropout", "attention.dropout"))
            module.p = weights if is_of_weights else states
    quicken_dropout(network)
    return network.train()


def run(
    network: Any,
    family: str,
    head: str,
    firsts_only: bool = False,
    dtype: torch.dtype | None = None,
    is_coarse: bool = False,
) -> Found:
    """Outputs, and every weight's gradient of a sum that tells cells apart."""
    rows, padding = encoded(family, TEXTS, OTHERS)
    base = network.base_model
    network.zero_grad()
    torch.manual_seed(11)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_coarse or dtype is not None):
            batch = lay_out(rows, INDICES, base, padding, CPU)
        states = encode(base, batch, firsts_only)
        output = states.pool(head) if head in ("mean", "cls") else states.logits(network)
    assert output is not None
    assert states.has_firsts_only == (firsts_only and trained.runs_here(base))
    ((output.float() * (torch.arange(output.numel()).reshape(output.shape).remainder(7) - 3.0)).sum()).backward()
    gradients = {name: weights.grad.clone() for name, weights in network.named_parameters() if weights.grad is not None}
    return output.detach(), gradients


def is_noise(name: str) -> bool:
    """Attention does not depend on the keys' bias: its gradient is what rounding leaves of 0."""
    return name.endswith(("key.bias", "k_lin.bias"))


def assert_alike(found: Found, expected: Found, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=tolerance, rtol=tolerance)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        scale = largest if is_noise(name) else max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[1][name], gradient, atol=tolerance * scale, rtol=10 * tolerance, msg=name)


def by_transformers(monkeypatch: pytest.MonkeyPatch, run_once: Callable[[], Found]) -> Found:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.encoder.trained.runs_here", lambda encoder: False)
        return run_once()


@pytest.mark.parametrize(("states", "weights"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.4)])
@pytest.mark.parametrize("head", ["rows", "tokens", "mean"])
@pytest.mark.parametrize("family", KNOWN)
def test_outputs_and_gradients_are_those_of_transformers_modules(
    family: str, head: str, states: float, weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = with_dropout(EVERY[family].network(HEADS.get(head, "AutoModel")), states, weights)
    ours = run(network, family, head)
    assert_alike(ours, by_transformers(monkeypatch, lambda: run(network, family, head)))
    if states:
        undropped, _ = run(network.eval(), family, head)
        assert not torch.allclose(ours[0], undropped, atol=1e-2)


@pytest.mark.parametrize("is_coarse", [False, True])
@pytest.mark.parametrize("weights", [0.0, 1e-12])  # the second takes the steps of training and drops nothing
@pytest.mark.parametrize("head", ["rows", "cls"])
@pytest.mark.parametrize("family", KNOWN)
def test_first_tokens_alone_are_what_they_are_among_all(
    family: str, head: str, weights: float, is_coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = with_dropout(EVERY[family].network(HEADS.get(head, "AutoModel")), 0.0, weights)
    alone = run(network, family, head, firsts_only=True, is_coarse=is_coarse)
    assert_alike(alone, by_transformers(monkeypatch, lambda: run(network, family, head)))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("firsts_only", [False, True])
def test_in_half_precision_they_are_near(family: str, firsts_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_dropout(FAMILIES[family].network(HEADS["rows"]), 0.0, 1e-12)
    half = run(network, family, "rows", firsts_only, torch.bfloat16)
    theirs = by_transformers(monkeypatch, lambda: run(network, family, "rows", dtype=torch.bfloat16))
    scale = float(theirs[0].abs().max())
    torch.testing.assert_close(half[0], theirs[0], atol=0.05 * scale, rtol=0.05)
    for name, gradient in theirs[1].items():
        direction = torch.nn.functional.cosine_similarity(half[1][name].flatten(), gradient.flatten(), dim=0)
        assert direction > 0.98 or is_noise(name), name


def test_the_last_layer_alone_is_short_where_weights_are_dropped_too() -> None:
    network = with_dropout(FAMILIES["bert"].network(HEADS["rows"]), 0.2, 0.3)
    first, again = (run(network, "bert", "rows", firsts_only=True) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][name], gradient) for name, gradient in again[1].items())


def listened_to(network: Any) -> None:
    network.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None)


def prepared_for(network: Any) -> None:
    network.register_forward_pre_hook(lambda *_: None)


def recomputed(network: Any) -> None:
    network.gradient_checkpointing_enable({"use_reentrant": False})


def adapted(network: Any) -> None:
    network.encoder.layer[0].attention.self.query = torch.nn.Sequential(torch.nn.Linear(32, 32))


def of_another_activation(network: Any) -> None:
    network.config.hidden_act = "mish"


@pytest.mark.parametrize("change", [listened_to, prepared_for, recomputed, adapted, of_another_activation])
def test_modules_run_as_they_are_where_more_hangs_on_them(change: Callable[[Any], None]) -> None:
    network = FAMILIES["bert"].network("AutoModel")
    assert trained.runs_here(network)
    change(network)
    assert not trained.runs_here(network)
    output, _ = run(network, "bert", "cls", firsts_only=True)
    assert output.shape == (len(INDICES), 32)


@pytest.mark.parametrize(
    ("head", "pooling", "expected"),
    [
        ("rows", None, True),
        ("rows", "cls", True),
        ("rows", "mean", False),
        ("tokens", None, False),
        ("spans", None, False),
        ("none", "cls", True),
        ("none", "max", False),
    ],
)
def test_who_reads_first_tokens_only(head: str, pooling: str | None, expected: bool) -> None:
    assert reads_firsts_only(FAMILIES["bert"].network(HEADS[head]), pooling) is expected


def test_modernbert_that_averages_reads_all_tokens() -> None:
    network = FAMILIES["modernbert"].network(HEADS["rows"])
    network.config.classifier_pooling = "mean"
    assert not reads_firsts_only(network, None)


@pytest.mark.parametrize("head", ["rows", "tokens", "none"])
def test_a_run_of_several_heads_takes_what_each_reads(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = JoinedHeads({head: FAMILIES["bert"].network(HEADS[head])}, EmbeddingOptions("mean", normalize=False))
    rows, padding = encoded("bert", TEXTS)
    asked: list[bool] = []
    run_layers = trained.run_layers

    def note(*given: Any) -> torch.Tensor:
        asked.append(given[-1])
        return run_layers(*given)

    monkeypatch.setattr("pipeline.encoder.trained.run_layers", note)
    joined({head: HeadCall(lay_out(rows, INDICES, joined.encoder, padding, CPU), seed=1)})
    assert asked == [head == "rows"]
