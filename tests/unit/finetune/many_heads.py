"""Parts for tests of several heads and of losses that compare rows: made-up data, networks, plain reference losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.packed_attention import PACKED
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, interleave_rows
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.step import StepContext, TrainingHead
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks import TASKS
from pipeline.tasks.base import IGNORED, WindowTargets
from tests.tiny import make_rows, tiny_config
from tests.unit.finetune.training import RUNTIME, token_data

HEAD_CLASSES = {
    "text-classification": BertForSequenceClassification,
    "token-classification": BertForTokenClassification,
    "embedding": BertModel,
    "masked-lm": BertForMaskedLM,
    "masked-lm-next": BertForPreTraining,
    "distil-embedding": BertModel,
}
KINDS = ("pairs", "triplets", "scored")


def tag_data(tokenizer: Any, num_rows: int, seed: int = 0) -> TokenData:
    """Texts with a random tag for two thirds of their tokens; one text without any."""
    draw = np.random.default_rng(seed)
    rows = TextTokenizer(tokenizer, TokenOptions(32)).encode(make_rows(num_rows, seed)["text"])
    values = np.where(draw.random(len(rows.ids)) < 0.7, draw.integers(0, 3, len(rows.ids)), IGNORED)
    values[rows.offsets[1] : rows.offsets[2]] = IGNORED
    weights = np.add.reduceat(values != IGNORED, rows.offsets[:-1]).astype(np.int64)
    return TokenData(rows, WindowTargets(values.astype(np.float32), rows.offsets, weights))


def pair_data(tokenizer: Any, num_rows: int, kind: str = "pairs", seed: int = 0) -> TokenData:
    """Rows of two or three texts, all of them different; keys say that every third row shares its first text's key."""
    num_texts = 3 if kind == "triplets" else 2
    texts = [make_rows(num_rows, seed + 10 * number)["text"] for number in range(num_texts)]
    numbered = [
        [f"{text.as_py()} {number} {row}" for row, text in enumerate(column)] for number, column in enumerate(texts)
    ]
    encoder = TextTokenizer(tokenizer, TokenOptions(32))
    rows = interleave_rows([encoder.encode(pa.array(column)) for column in numbered])
    draw = np.random.default_rng(seed)
    keys = np.stack([np.arange(num_rows) // 3, *(1000 * text + np.arange(num_rows) for text in (1, 2))], axis=1)
    keys = np.repeat(keys[:, :num_texts], 2, axis=1)  # a key is two numbers
    targets = draw.integers(0, 4, (num_rows, 1)) if kind == "scored" else keys
    lengths = np.zeros((num_rows, num_texts), np.int64)
    lengths[:, 0] = targets.shape[1]
    weights = np.zeros((num_rows, num_texts), np.int64)
    weights[:, 0] = 1
    offsets = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    return TokenData(
        rows, WindowTargets(targets.reshape(-1).astype(np.float32), offsets, weights.reshape(-1)), num_texts
    )


def head_of(task: str, data: TokenData, weight: float = 1.0) -> TrainingHead:
    """A head that is named as its task."""
    return TrainingHead(task, TASKS[task], data, weight)


def heads_of(tokenizer: Any, num_rows: int = 20) -> tuple[TrainingHead, ...]:
    """One head of each kind, with different weights."""
    return (
        head_of("text-classification", token_data(tokenizer, num_rows, seed=1), 1.5),
        head_of("token-classification", tag_data(tokenizer, num_rows + 3, seed=2), 0.5),
        head_of("embedding", pair_data(tokenizer, num_rows - 4, "triplets", seed=3), 2.0),
    )


def join(heads: Sequence[TrainingHead], dropout: float = 0.0) -> JoinedHeads:
    """Networks for these heads; same call, same weights."""
    config = tiny_config()
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            head.name: HEAD_CLASSES[head.task.name]._from_config(config, attn_implementation=PACKED) for head in heads
        }
    return JoinedHeads(networks, EmbeddingOptions("mean", normalize=True))


def context_of(heads: Sequence[TrainingHead], network: Any = None, world_size: int = 1, **recipe: Any) -> StepContext:
    """A run's context in fp32 on CPU; `recipe` goes to TrainingConfig."""
    config = TrainingConfig(**{"max_grad_norm": 1e9, **recipe})
    return StepContext(network or join(heads), tuple(heads), RUNTIME, config, Padding(0), world_size)


def plain_loss(kind: str, vectors_NKH: torch.Tensor, data: TokenData, rows: np.ndarray) -> torch.Tensor:
    """The loss of a batch of embeddings, written without any of the code under test."""
    units = vectors_NKH / vectors_NKH.norm(dim=-1, keepdim=True)
    targets = data.targets.values.reshape(len(data), -1)[rows]
    if kind == "scored":
        cosines = 20 * (units[:, 0] * units[:, 1]).sum(dim=-1)
        worse = [
            torch.exp(cosines[low] - cosines[high])
            for high in range(len(rows))
            for low in range(len(rows))
            if targets[high, 0] > targets[low, 0]
        ]
        return torch.log1p(torch.stack(worse).sum()) if worse else 0.0 * cosines.sum()
    losses = []
    for row in range(len(rows)):
        rivals = [
            other for other in range(len(rows)) if other != row and (targets[other, :4] != targets[row, :4]).all()
        ]
        wrong = [units[other, 1] for other in rivals] + list(units[:, 2:].reshape(-1, units.shape[-1]))
        scores = torch.stack([units[row, 0] @ candidate for candidate in (units[row, 1], *wrong)])
        losses.append(-torch.log_softmax(20 * scores, dim=0)[0])
    return torch.stack(losses).mean()


def embed_plainly(encoder: Any, data: TokenData, rows: np.ndarray) -> torch.Tensor:
    """Mean of the last hidden states of each text, one text at a time, without padding: [N, K, H]."""
    width = data.texts_per_row
    vectors = [_states(encoder, data, int(row) * width + text).mean(dim=0) for row in rows for text in range(width)]
    return torch.stack(vectors).view(len(rows), width, -1)


def plain_row_loss(network: Any, head: TrainingHead, rows: np.ndarray) -> torch.Tensor:
    """The mean cross-entropy over the terms of some rows of a head with labels or tags, one row at a time."""
    losses, offsets = [], head.data.targets.offsets
    for row in rows:
        ids = torch.from_numpy(head.data.rows.row(int(row)).astype(np.int64))[None]
        logits = network(input_ids=ids).logits[0]
        truth = head.data.targets.values[offsets[row] : offsets[row + 1]]
        for one, label in zip(logits.reshape(-1, logits.shape[-1]), truth, strict=True):
            if label != IGNORED:
                losses.append(-torch.log_softmax(one, dim=0)[int(label)])
    return torch.stack(losses).mean()


def assert_near(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Equal up to fp32 sums in another order."""
    assert left.keys() == right.keys()
    for name, values in right.items():
        scale = max(1.0, float(np.abs(values).max(initial=0)))
        np.testing.assert_allclose(left[name], values, rtol=0, atol=1e-5 * scale, err_msg=name)


def _states(encoder: Any, data: TokenData, window: int) -> torch.Tensor:
    ids = torch.from_numpy(data.rows.row(window).astype(np.int64))[None]
    return encoder(input_ids=ids)[0][0]
