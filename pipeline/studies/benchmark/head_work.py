"""One task over the sample: which weights, which texts, and what counts as an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers

from pipeline.config import ComputeConfig
from pipeline.encoder.attention import Runtime, choose_runtime
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer, TokenRows
from pipeline.inference.predictor import Predictor, load_predictor
from pipeline.inference.source import ModelSource, TextSource, token_options
from pipeline.storage import Storage
from pipeline.studies.benchmark.bundles import ANSWERING, CLASSIFICATION, QUESTION, TAGGING

Answers = list[Any]
"""One for each text: a label, (start, end, label) of each tag, or a part of the text."""

ANSWER_COLUMN = {CLASSIFICATION: "label", TAGGING: "entities", ANSWERING: "answer"}
_AUTO_CLASS = {
    CLASSIFICATION: "AutoModelForSequenceClassification",
    TAGGING: "AutoModelForTokenClassification",
    ANSWERING: "AutoModelForQuestionAnswering",
}


@dataclass(frozen=True)
class HeadWork:
    """What everyone does: one task's answers to these texts, from the same weights.

    Attributes:
        task: Its name.
        bundle: A directory.
        texts: Strings [R].
        max_length: Tokens that the bundle keeps of a text.
        compute: Device and precision.
        num_threads: Cores of everyone.
    """

    task: str
    bundle: Path
    texts: pa.ChunkedArray
    max_length: int
    compute: ComputeConfig
    num_threads: int

    @property
    def runtime(self) -> Runtime:
        """Device and precision, resolved."""
        return choose_runtime(self.compute)

    @property
    def columns(self) -> dict[str, pa.ChunkedArray]:
        """The task's inputs by name."""
        if self.task != ANSWERING:
            return {"text": self.texts}
        return {"question": pa.chunked_array([pa.array([QUESTION] * len(self.texts))]), "context": self.texts}

    def predictor(self) -> Predictor:
        """The bundle as scoring loads it."""
        texts = {"": TextSource(tuple(self.columns))}
        return load_predictor(ModelSource({"": str(self.bundle)}, texts, self.compute, self.num_threads, Storage()))

    def network(self, dtype: torch.dtype) -> Any:
        """Transformers' own network with the bundle's weights, without anything of bertmill."""
        auto_class = getattr(transformers, _AUTO_CLASS[self.task])
        loaded = auto_class.from_pretrained(
            self.bundle, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
        return loaded.to(self.runtime.device).eval()

    def tokenize(self) -> TokenRows:
        """Token ids, as bertmill makes them."""
        member = self.predictor().members[""]
        tokenizer = TextTokenizer(load_tokenizer(self.bundle), token_options(member.info, member.task))
        return tokenizer.encode(*self.columns.values())


def as_answers(made: Any) -> Answers:
    """What a contender made, in one form for all; not part of anybody's time."""
    if not isinstance(made, pa.Array):
        return list(made)
    return [tag_tuples(item, "label") if isinstance(item, list) else item for item in made.to_pylist()]


def share_alike(answers: Answers, reference: Answers) -> float:
    """Share of rows with the same answer."""
    num_alike = sum(bool(one == other) for one, other in zip(answers, reference, strict=True))
    return num_alike / len(reference)


def tag_tuples(found: Sequence[dict[str, Any]], label: str) -> list[tuple[int, int, str]]:
    """(start, end, label) of each tag."""
    return [(item["start"], item["end"], item[label]) for item in found]
