"""Fine-tuning, texts to a saved model: bertmill's path without Ray, and the Hugging Face Trainer at its best settings.

Same weights, windows, targets, epochs, rows per step, learning rate, warm-up, decay, clipping and seed; order and
dropout differ. The head's last layer starts as the recipe says, once more at random as the Trainer's does. Each round
has a seed of its own, the same for everyone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.encoder.attention import choose_runtime
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.model import EncoderModel, Head, load_network
from pipeline.encoder.tokenize import Padding, TextTokenizer
from pipeline.errors import InputError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.fitted import can_be_fitted
from pipeline.finetune.labelled import UsableRows, read_split
from pipeline.finetune.prepare import PreparedHead, PreparedTraining
from pipeline.studies.benchmark.rounds import Contender
from pipeline.tasks.base import Examples, Task
from pipeline.tasks.question_answering import END, START

# The Trainer has their losses.
_RACED = ("text-classification", "pair-classification", "token-classification", "question-answering")


@dataclass(frozen=True)
class TrainingWork:
    """What both do.

    Attributes:
        runs: The same checked run of one head for each round, with another seed.
        train: Its usable rows.
        held_out: Its usable validation rows.
        folder: A local directory that may be written.
        num_threads: Cores of both.
    """

    runs: tuple[PreparedTraining, ...]
    train: UsableRows
    held_out: UsableRows
    folder: Path
    num_threads: int

    @classmethod
    def of(cls, runs: Sequence[PreparedTraining], folder: Path, num_threads: int) -> TrainingWork:
        """The work of runs that were checked and have validation rows.

        Raises:
            InputError: a task or labels that the Trainer has no loss for.
        """
        head = runs[0].heads[0]
        if head.spec.task not in _RACED:
            raise InputError(f"no race for {head.spec.task}", f"train one of: {', '.join(_RACED)}")
        assert head.validation is not None
        allowed, storage = head.spec.data.max_bad_fraction, runs[0].storage
        train, held_out = (
            read_split(split, head.task, head.train.learned, allowed, storage)
            for split in (head.train, head.validation)
        )
        if head.task.classes_of == "rows" and pa.types.is_nested(train.targets.type):
            raise InputError("no race for labels that are probabilities", "train on labels")
        return cls(tuple(runs), train, held_out, folder, num_threads)

    @property
    def head(self) -> PreparedHead:
        """The one head."""
        return self.runs[0].heads[0]

    def examples(self, rows: UsableRows, tokenizer: Any) -> Examples:
        """Rows as the task sees them."""
        tokens = TextTokenizer(tokenizer, self.head.token_options).encode(*rows.texts)
        return Examples(rows.texts, tokens, self.head.train.are_words)

    def num_tokens(self) -> int:
        """Tokens trained on, over all epochs, without padding."""
        lengths = self.examples(self.train, load_tokenizer(self.runs[0].encoder)).tokens.lengths
        return int(lengths.sum()) * self.runs[0].spec.training.epochs

    def judge(self, directory: Path) -> float:
        """The task's main metric of a saved model on the validation rows, by bertmill's own forward pass."""
        task, learned, tokenizer = self.head.task, self.head.train.learned, load_tokenizer(directory)
        runtime = choose_runtime(self.runs[0].spec.compute)
        model = EncoderModel([Head(load_network(directory, task.head_class), None)], runtime, Padding.of(tokenizer))
        examples = self.examples(self.held_out, tokenizer)
        judged = task.judge(model.run(examples.tokens), examples, self.held_out.targets, learned)
        return task.evaluate(judged, learned).metrics[task.main_metric]


def training_contenders(work: TrainingWork) -> list[Contender]:
    """Own training, as it comes and with heads as theirs, and the Trainer with and without grouping by length.

    Each gives its model's directory.
    """
    trainers = [
        _contender(work, f"Hugging Face Trainer, {sampling}", partial(_run_trainer, work, sampling))
        for sampling in ("group_by_length", "random")
    ]
    own: dict[str, dict[str, str]] = {"bertmill": {}}
    if can_be_fitted(work.head.task):
        own["bertmill, head from random weights, as theirs"] = {"head_start": "random", "head_reads": "first"}
    return [*(_contender(work, name, partial(_run_own, work, changes)) for name, changes in own.items()), *trainers]


def _contender(work: TrainingWork, name: str, train: Callable[[PreparedTraining], Path]) -> Contender:
    """Trains another round's run each time, and keeps each round's model."""
    runs = enumerate(work.runs)

    def run() -> Path:
        number, prepared = next(runs)
        return train(prepared).rename(work.folder / f"{name}-{number}")

    return Contender(name, run)


def _run_own(work: TrainingWork, changes: Mapping[str, str], run: PreparedTraining) -> Path:
    shutil.rmtree(run.spec.work_uri, ignore_errors=True)
    recipe = run.spec.training.model_copy(update=changes)
    train_alone(replace(run, spec=run.spec.model_copy(update={"training": recipe})), work.num_threads)
    return Path(run.spec.output)


def _run_trainer(work: TrainingWork, sampling: str, run: PreparedTraining) -> Path:
    import transformers

    recipe, runtime = run.spec.training, choose_runtime(run.spec.compute)
    encoder = run.encoder
    tokenizer = load_tokenizer(encoder)
    torch.manual_seed(recipe.seed)  # the head's weights
    network = getattr(transformers, work.head.task.head_class).from_pretrained(
        encoder,
        num_labels=len(work.head.train.learned.labels) or 2,  # of answers the start and the end
        use_safetensors=True,
        trust_remote_code=False,
    )
    target = work.folder / f"trainer-{sampling}"
    arguments = transformers.TrainingArguments(
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
    over_tokens = work.head.task.classes_of == "tokens"
    collator = transformers.DataCollatorForTokenClassification if over_tokens else transformers.DataCollatorWithPadding
    rows = _Rows(_windows(work, tokenizer))
    transformers.Trainer(network, arguments, collator(tokenizer), rows).train()
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _windows(work: TrainingWork, tokenizer: Any) -> list[dict[str, Any]]:
    """The training windows and their targets, as the Trainer takes them."""
    task, examples = work.head.task, work.examples(work.train, tokenizer)
    tokens, found = examples.tokens, task.window_targets(work.train.targets, examples, work.head.train.learned)
    rows = []
    for window, (start, stop) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        targets = found.values[found.offsets[window] : found.offsets[window + 1]].astype(int)
        row = {"input_ids": tokens.ids[start:stop].tolist(), "attention_mask": [1] * int(stop - start)}
        if tokens.type_ids is not None and "token_type_ids" in tokenizer.model_input_names:
            row["token_type_ids"] = tokens.type_ids[start:stop].tolist()
        rows.append({**row, **_given(task, targets), "length": int(stop - start)})
    return rows


def _given(task: Task, targets: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A window's targets under the names that transformers gives them."""
    if task.name == "question-answering":
        return {
            "start_positions": int((targets & START).argmax()),
            "end_positions": int((targets & END).argmax()),
        }
    return {"labels": targets.tolist() if task.classes_of == "tokens" else int(targets[0])}


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list, as the Trainer takes it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._rows[row]
