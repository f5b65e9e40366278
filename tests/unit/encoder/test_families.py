"""A batch of mixed lengths gives what each row gives alone, without padding: for every family and every head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.forward import head_logits, lay_out
from pipeline.encoder.model import EncoderModel, Head
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.encoder.tokenize import Padding, TextTokenizer, TokenOptions, TokenRows
from tests.unit.encoder.families import EVERY, FAMILIES, RELATED

HEADS = {
    "rows": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "none": "AutoModel",
}
CASES = [(family, head) for family in FAMILIES for head in HEADS]
CASES += [(family, head) for family in RELATED for head in ("rows", "tokens")]
TEXTS = [
    "the film was good, lovely and so much more than words say.",
    "bad",
    "the film",
    "",
    "good good film was it",
]
OTHERS = ["was it?", "the film was not so bad, and the book was lovely.", "a", "b c", ""]
RUNTIME = Runtime(torch.device("cpu"), autocast_dtype=None, budget=BatchBudget(tokens=100_000, rows=64))


def encoded(family: str, *texts: list[str]) -> tuple[TokenRows, Padding]:
    tokenizer = EVERY[family].tokenizer()
    rows = TextTokenizer(tokenizer, TokenOptions(60)).encode(*(pa.array(text) for text in texts))
    return rows, Padding.of(tokenizer)


def alone(family: str, network: Any, *texts: str) -> tuple[np.ndarray, np.ndarray]:
    """One row as transformers alone would run it: (logits without the batch axis, mean of the last hidden states)."""
    inputs = EVERY[family].tokenizer()(*([text] for text in texts), return_tensors="pt")
    with torch.no_grad():
        output = network(**inputs, output_hidden_states=True)
    logits = head_logits(output)
    host = np.zeros(0, np.float32) if logits is None else logits[0].numpy()
    return host, output.hidden_states[-1][0].mean(dim=0).numpy()


@pytest.mark.parametrize("with_pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_batch_gives_what_each_row_gives_alone(family: str, head: str, with_pairs: bool) -> None:
    texts = (TEXTS, OTHERS) if with_pairs else (TEXTS,)
    network = EVERY[family].network(HEADS[head])
    rows, padding = encoded(family, *texts)
    assert len(set(rows.lengths.tolist())) > 3
    model = EncoderModel([Head(network, EmbeddingOptions("mean", normalize=False))], RUNTIME, padding)
    (outputs,) = model.run(rows)
    over_tokens = head in ("tokens", "spans")
    spread = outputs.embeddings.std(axis=0).max()
    assert spread > 1e-2, "rows cannot be told apart"
    for index, row in enumerate(zip(*texts, strict=True)):
        logits, embedding = alone(family, network, *row)
        part = slice(int(rows.offsets[index]), int(rows.offsets[index + 1])) if over_tokens else index
        np.testing.assert_allclose(outputs.logits[part], logits, atol=1e-4)
        np.testing.assert_allclose(outputs.embeddings[index], embedding, atol=1e-4)
    assert outputs.finite.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_goes_where_the_family_wants_it_whatever_its_tokenizer_says(family: str) -> None:
    rows, padding = encoded(family, TEXTS)
    tokenizer, network = FAMILIES[family].tokenizer(), FAMILIES[family].network("AutoModel")
    tokenizer.padding_side = "right" if family == "xlnet" else "left"
    assert padding == Padding.of(tokenizer) == Padding(tokenizer.pad_token_id)
    shortest, longest = np.argsort(rows.lengths)[[0, -1]]
    batch = lay_out(rows, np.array([longest, shortest]), network, padding, torch.device("cpu"))
    if batch.pack is None:
        is_token, length = batch.mask_BS[1].bool(), int(rows.lengths[shortest])
        assert (is_token[-length:] if family == "xlnet" else is_token[:length]).all()
        assert int(is_token.sum()) == length < batch.shape[1]
    assert [rows.row(index).tolist() for index in range(len(rows))] == tokenizer(TEXTS)["input_ids"]
