"""What plain transformers says of one row, in fp32 and without any of our code but the tasks' names.

Good for the short texts of these tests: one window, tags B- and I- without breaks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from seqeval.metrics.sequence_labeling import get_entities

from pipeline.encoder.bundle import BundleInfo

HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "pair-classification": "AutoModelForSequenceClassification",
    "multi-label": "AutoModelForSequenceClassification",
    "similarity": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "embedding": "AutoModel",
}


class PlainBundle:
    """A bundle's directory as transformers loads it."""

    def __init__(self, path: Path, info: BundleInfo) -> None:
        self.info = info
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        auto_class = getattr(transformers, HEADS[info.task])
        self.network = auto_class.from_pretrained(path, dtype=torch.float32).eval()

    def predict(self, *texts: Any) -> dict[str, Any]:
        """Expected columns of a row; texts are strings, or one list of words."""
        predict = getattr(self, "_" + self.info.task.replace("-", "_"))
        found: dict[str, Any] = predict(*texts)
        return found

    def _run(self, *texts: str) -> Any:
        encoded = self.tokenizer(*texts, return_tensors="pt", truncation=True, max_length=self.info.max_length)
        with torch.inference_mode():
            return self.network(**encoded)

    def _text_classification(self, *texts: str) -> dict[str, Any]:
        scores = self._run(*texts).logits[0].softmax(-1)
        best = int(scores.argmax())
        return {"label": self.network.config.id2label[best], "score": float(scores[best]), "class_scores": scores}

    _pair_classification = _text_classification

    def _multi_label(self, text: str) -> dict[str, Any]:
        scores = self._run(text).logits[0].sigmoid()
        return {"class_scores": scores}

    def _similarity(self, *texts: str) -> dict[str, Any]:
        low, high = self.info.options["low"], self.info.options["high"]
        return {"similarity": low + (high - low) * float(self._run(*texts).logits.sigmoid())}

    def _token_classification(self, words: list[str]) -> dict[str, Any]:
        encoded = self.tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            best = self.network(**encoded).logits[0].argmax(-1).tolist()
        first = {word: index for index, word in reversed(list(enumerate(encoded.word_ids(0)))) if word is not None}
        tags = [self.network.config.id2label[best[first[number]]] for number in range(len(words))]
        found = [(kind, " ".join(words[start : stop + 1])) for kind, start, stop in get_entities(tags)]
        return {"entities": found}

    def _question_answering(self, question: str, context: str) -> dict[str, Any]:
        encoded = self.tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            output = self.network(**encoded)
        inside = [index for index, kind in enumerate(encoded.sequence_ids(0)) if kind == 1]
        best = max(
            ((start, stop) for start in inside for stop in inside if start <= stop < start + 30),
            key=lambda pair: float(output.start_logits[0, pair[0]] + output.end_logits[0, pair[1]]),
        )
        return {"answer": context[spans[best[0]][0] : spans[best[1]][1]]}

    def _embedding(self, text: str) -> dict[str, Any]:
        vector = self._run(text).last_hidden_state[0].mean(dim=0)
        return {"embedding": vector / vector.norm()}
