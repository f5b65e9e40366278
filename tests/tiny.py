"""Tiny, random and quick: a tokenizer, an encoder, a bundle and a corpus for tests. Same call, same bytes.

make_tokenizer(directory)          WordPiece tokenizer of about 100 tokens, saved there and returned
make_encoder(directory)            BertModel (hidden 32, 2 layers, 2 heads, no dropout) + tokenizer, safetensors
make_bundle(directory, labels)     a bundle, written by pipeline.encoder.bundle.write_bundle
make_rows(num_rows, seed)          table of id, text, label; the label can be learned from the words
write_corpus(directory, ...)       such rows as several small Parquet files
"""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from pipeline.encoder.attention import attention_kernel
from pipeline.encoder.bundle import BundleInfo, write_bundle
from pipeline.storage import Storage

LABELS = ("negative", "neutral", "positive")
_WORDS = {
    "negative": ("awful", "bad", "dull", "poor"),
    "neutral": ("blue", "round", "seven", "table"),
    "positive": ("good", "great", "lovely", "superb"),
}
_FILLERS = ("the", "film", "was", "and", "it", "is")
_VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(*string.ascii_lowercase, *string.digits, *string.punctuation),
    *(f"##{character}" for character in (*string.ascii_lowercase, *string.digits)),
    *sorted({*_FILLERS, *(word for group in _WORDS.values() for word in group)}),
)


def make_tokenizer(directory: str | Path) -> Any:
    """Save a WordPiece tokenizer that knows every ASCII character; anything else becomes [UNK]."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(_VOCABULARY) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(directory))
    tokenizer.save_pretrained(directory)
    return tokenizer


def tiny_config(labels: tuple[str, ...] = LABELS) -> BertConfig:
    """The configuration of every tiny network: no dropout, weights wide enough to tell rows apart."""
    return BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )


def make_encoder(directory: str | Path, seed: int = 0) -> str:
    """Save a random BertModel without a head, and its tokenizer.

    Returns:
        The directory, as a spec's `model` takes it.
    """
    make_tokenizer(directory)
    _seeded(BertModel, tiny_config(), seed).save_pretrained(directory)
    return str(directory)


def make_network(labels: tuple[str, ...] = LABELS, seed: int = 0) -> Any:
    """A random BertForSequenceClassification in memory, in eval mode."""
    return _seeded(BertForSequenceClassification, tiny_config(labels), seed)


def make_bundle(
    directory: str | Path,
    labels: tuple[str, ...] = LABELS,
    *,
    seed: int = 0,
    max_length: int = 32,
    network: Any = None,
    **changes: Any,
) -> BundleInfo:
    """Write a bundle with random weights.

    Args:
        directory: Where; also what a spec's `bundle` takes.
        labels: Class names, in the order of the logits.
        seed: Seed of the weights.
        max_length: Tokens kept of each text.
        network: A network to save instead of `make_network(labels, seed)`.
        changes: Other fields of BundleInfo (`pooling`, `normalize`, `inputs`, `metrics`, ...).
    """
    directory = Path(directory)
    tokenizer = make_tokenizer(directory.with_name(f"{directory.name}-tokenizer"))
    network = network or make_network(labels, seed)
    fields: dict[str, Any] = {
        "task": "text-classification",
        "inputs": {"text": "text"},
        "labels": labels,
        "max_length": max_length,
        "base_model": "tiny",
        "data_fingerprint": "0" * 64,
        "run_fingerprint": "1" * 64,
        "metrics": {"macro_f1": 0.5},
    }
    return write_bundle(str(directory), network, tokenizer, BundleInfo(**{**fields, **changes}), Storage())


def make_rows(num_rows: int, seed: int = 0) -> pa.Table:
    """Columns id, text, label (all string); each text holds one to three words that only its label uses."""
    draw = random.Random(seed)
    texts, labels = [], []
    for row in range(num_rows):
        label = LABELS[row % len(LABELS)]
        words = draw.choices(_WORDS[label], k=draw.randint(1, 3)) + draw.choices(_FILLERS, k=draw.randint(1, 9))
        draw.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return pa.table({"id": [f"{seed}-{row}" for row in range(num_rows)], "text": texts, "label": labels})


def write_corpus(
    directory: str | Path, num_files: int = 3, rows_per_file: int = 20, row_group_rows: int = 8, seed: int = 0
) -> pa.Table:
    """Write `part-0.parquet`, `part-1.parquet`, ... with rows of `make_rows`, several row groups each.

    Returns:
        Every row, in file and row order.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tables = [make_rows(rows_per_file, seed * 1_000 + index) for index in range(num_files)]
    for index, table in enumerate(tables):
        pq.write_table(table, directory / f"part-{index}.parquet", row_group_size=row_group_rows)
    return pa.concat_tables(tables)


def _seeded(network_class: Any, config: BertConfig, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network_class._from_config(config, attn_implementation=attention_kernel(network_class, config)).eval()
