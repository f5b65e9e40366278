"""Parts for the tests of heads that guess hidden tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import BertForMaskedLM, BertForPreTraining

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.masking import HidingRules
from pipeline.encoder.packed_attention import PACKED
from pipeline.encoder.pairing import PairingRules, sentence_ends
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions
from pipeline.finetune.hidden import HiddenRows
from pipeline.finetune.loop import LoopJob, ValidationRows
from pipeline.finetune.spec import CheckpointConfig
from pipeline.finetune.step import TrainingHead
from pipeline.finetune.token_cache import TokenData
from pipeline.finetune.worker import plan_run
from pipeline.tasks import TASKS
from pipeline.tasks.base import Examples, Learned
from tests.tiny import make_rows, tiny_config
from tests.unit.finetune.many_heads import context_of

TASK = TASKS["masked-lm"]


def rules_of(tokenizer: Any, share: float = 0.3, whole_words: bool = False) -> HidingRules:
    return HidingRules.of(tokenizer, share, whole_words, seed=5)


def text_rows(tokenizer: Any, num_rows: int, seed: int = 0) -> ValidationRows:
    """Texts that are judged; two of three are cut into windows."""
    texts = make_rows(num_rows, seed)["text"]
    rows = TextTokenizer(tokenizer, TokenOptions(10, "window", 0, with_spans=True)).encode(texts)
    return ValidationRows(Examples((texts,), rows), (rows,), pa.chunked_array([pa.nulls(num_rows)]))


def text_data(tokenizer: Any, num_rows: int, seed: int = 0) -> TokenData:
    """Such texts to learn from."""
    rows = text_rows(tokenizer, num_rows, seed)
    return TokenData(rows.inputs[0], TASK.window_targets(rows.targets, rows.examples, Learned()))


def head_of(tokenizer: Any, num_rows: int = 20, weight: float = 1.0) -> TrainingHead:
    return TrainingHead("masked-lm", TASK, text_data(tokenizer, num_rows), weight, hiding=rules_of(tokenizer))


NEXT = TASKS["masked-lm-next"]


def pairing_head(tokenizer: Any, num_rows: int = 20, weight: float = 1.0) -> TrainingHead:
    """The same texts, cut into pairs."""
    data = text_data(tokenizer, num_rows)
    rules = PairingRules(data.rows, data.targets.values.astype(np.int64), sentence_ends(tokenizer), 11, seed=5)
    return TrainingHead(NEXT.name, NEXT, data, weight, hiding=rules_of(tokenizer), pairing=rules)


def job_of(head: TrainingHead, network: JoinedHeads, tokenizer: Any, **recipe: Any) -> LoopJob:
    """The only rank's job of one such head, with a few rows to be judged."""
    made = context_of([head], network, batch_rows=8, learning_rate=3e-3, **recipe)
    rows, learned = {head.name: text_rows(tokenizer, 12, seed=3)}, {head.name: Learned()}
    return LoopJob(made, plan_run(made, {head.name: ()}), rows, learned, CheckpointConfig(every_s=1e9), "print", rank=0)


def make_pair_guesser(seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForPreTraining._from_config(tiny_config(), attn_implementation=PACKED)


def make_guesser(seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForMaskedLM._from_config(tiny_config(), attn_implementation=PACKED)


def plain_loss(network: Any, head: TrainingHead, rows: np.ndarray, epoch: int) -> torch.Tensor:
    """transformers' own loss of each row, one at a time, as a mean over all hidden tokens."""
    assert head.hiding is not None
    total, count = torch.zeros(()), 0
    for row in rows.tolist():
        hidden = HiddenRows.of(head.data, np.array([row]), [(epoch, row)], head.hiding)
        labels = torch.full((len(hidden.rows.ids),), -100)
        labels[hidden.windows[0].places] = torch.from_numpy(hidden.windows[0].truth.astype(np.int64))
        ids = torch.from_numpy(hidden.rows.ids.astype(np.int64))[None]
        total = total + network(input_ids=ids, labels=labels[None]).loss * hidden.num_hidden
        count += hidden.num_hidden
    return total / count
