"""Bundles that share an encoder, as heads trained together do, and others that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, BertModel

from pipeline.encoder.bundle import BundleInfo
from tests.tiny import LABELS, make_bundle, tiny_config

TAGS = ("B-X", "I-X", "O")
_CLASSES = {
    "text-classification": (BertForSequenceClassification, LABELS, {"text": "text"}),
    "pair-classification": (BertForSequenceClassification, LABELS, {"text_a": "text", "text_b": "title"}),
    "token-classification": (BertForTokenClassification, TAGS, {"text": "text"}),
    "question-answering": (BertForQuestionAnswering, (), {"question": "title", "context": "text"}),
    "embedding": (BertModel, (), {"text": "text"}),
}


def make_network(task: str, encoder_seed: int = 0, head_seed: int = 1) -> Any:
    """Random weights: the encoder's (pooler included) come from one seed, the head's from another."""
    network_class, labels, _ = _CLASSES[task]
    config = tiny_config(labels or ("start", "end"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        network: Any = network_class(config)
        torch.manual_seed(encoder_seed)
        network.base_model.load_state_dict(BertModel(config).state_dict(), strict=False)
    return network.eval()


def write(directory: Path, task: str, encoder_seed: int = 0, network: Any = None, **fields: Any) -> BundleInfo:
    """Write a bundle; equal encoder seeds are one encoder."""
    _, labels, inputs = _CLASSES[task]
    network = network or make_network(task, encoder_seed)
    return make_bundle(directory, labels, network=network, **{"task": task, "inputs": inputs, **fields})


def write_family(root: Path) -> dict[str, str]:
    """Name -> URI of three bundles on one encoder, pooled in three ways, and one on another encoder."""
    write(root / "tone", "text-classification")
    write(root / "names", "token-classification", pooling="max", normalize=False)
    write(root / "search", "embedding", pooling="cls")
    write(root / "stranger", "text-classification", encoder_seed=9)
    return {path.name: str(path) for path in sorted(root.iterdir()) if (path / "bundle.json").exists()}
