"""Fine-tuning, texts to a saved model: bertmill's path without Ray, and the Hugging Face Trainer at its best settings.

Same weights, rows, epochs, rows per step, learning rate, warm-up, decay, clipping and cut; order and dropout differ.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EmbeddingOptions, EncoderModel, Head, load_network
from pipeline.encoder.tokenize import Padding
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import PreparedTraining
from pipeline.studies.benchmark.rounds import Contender
from pipeline.studies.encoding import FrozenEncoder
from pipeline.studies.rows import TextRows, read_rows


@dataclass(frozen=True)
class TrainingWork:
    """What both do.

    Attributes:
        run: A checked fine-tuning run of one text-classification head, with validation rows.
        train: Its usable rows.
        held_out: Its usable validation rows.
        folder: A local directory that may be written.
        num_threads: Cores of both.
    """

    run: PreparedTraining
    train: TextRows
    held_out: TextRows
    folder: Path
    num_threads: int

    @classmethod
    def of(cls, run: PreparedTraining, folder: Path, num_threads: int) -> TrainingWork:
        """The work of a checked run that has validation rows."""
        head = run.heads[0]
        assert head.validation is not None
        allowed = head.spec.data.max_bad_fraction
        train, held_out = (
            read_rows(split, head.train.learned, allowed, run.storage) for split in (head.train, head.validation)
        )
        return cls(run, train, held_out, folder, num_threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.run.heads[0].train.learned.labels

    def num_tokens(self) -> int:
        """Tokens trained on, over all epochs, without padding."""
        lengths = FrozenEncoder(self.run.encoder, self.run.spec).tokenize(self.train.texts).lengths
        return int(lengths.sum()) * self.run.spec.training.epochs

    def accuracy(self, directory: Path) -> float:
        """Of a saved model on the validation rows, by bertmill's own forward pass."""
        tokenizer = load_tokenizer(directory)
        network = load_network(directory, "AutoModelForSequenceClassification")
        runtime = choose_runtime(self.run.spec.compute)
        model = EncoderModel([Head(network, EmbeddingOptions("mean", True))], runtime, Padding.of(tokenizer))
        rows = FrozenEncoder(str(directory), self.run.spec).tokenize(self.held_out.texts)
        predicted = np.asarray(self.labels)[model.run(rows)[0].logits.argmax(axis=1)]
        return float((predicted == np.asarray(self.held_out.labels)).mean())


def training_contenders(work: TrainingWork) -> list[Contender]:
    """bertmill, and the Trainer with and without grouping by length."""
    return [_bertmill(work), _trainer(work, "group_by_length"), _trainer(work, "random")]


def _bertmill(work: TrainingWork) -> Contender:
    def run() -> Path:
        for place in (work.run.spec.output, work.run.spec.work_uri):
            shutil.rmtree(place, ignore_errors=True)
        train_alone(work.run, work.num_threads)
        return Path(work.run.spec.output)

    return Contender("bertmill", run)


def _trainer(work: TrainingWork, sampling: str) -> Contender:
    return Contender(f"Hugging Face Trainer, {sampling}", lambda: _run_trainer(work, sampling))


def _run_trainer(work: TrainingWork, sampling: str) -> Path:
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    spec, recipe = work.run.spec, work.run.spec.training
    runtime = choose_runtime(spec.compute)
    tokenizer = load_tokenizer(work.run.encoder)
    encoded = tokenizer(work.train.texts, truncation=True, max_length=spec.max_length)
    ids = {label: index for index, label in enumerate(work.labels)}
    rows = [
        {
            **{name: encoded[name][row] for name in encoded},
            "labels": ids[label],
            "length": len(encoded["input_ids"][row]),
        }
        for row, label in enumerate(work.train.labels)
    ]
    network = AutoModelForSequenceClassification.from_pretrained(
        work.run.encoder, num_labels=len(ids), use_safetensors=True, trust_remote_code=False
    )
    target = work.folder / f"trainer-{sampling}"
    arguments = TrainingArguments(
        output_dir=str(target / "work"),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_rows,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_fraction,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        bf16=runtime.autocast_dtype is torch.bfloat16,
        fp16=runtime.autocast_dtype is torch.float16,
        use_cpu=runtime.device.type == "cpu",
        train_sampling_strategy=sampling,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=True,
    )
    torch.manual_seed(recipe.seed)
    trainer = Trainer(network, arguments, DataCollatorWithPadding(tokenizer), _Rows(rows))
    trainer.train()
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list, as the Trainer takes it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._rows[row]
