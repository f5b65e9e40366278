"""Labelled Parquet -> lists of texts and label names, for methods that know nothing of tasks and shards."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.finetune.labelled import LabelledSet, read_split
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.subsets import IntArray
from pipeline.tasks import find_task
from pipeline.tasks.base import Learned
from pipeline.tasks.text_classification import label_names

TASK = "text-classification"


@dataclass(frozen=True)
class TextRows:
    """Usable rows: as many labels as texts."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: IntArray) -> TextRows:
        """Some of the rows, in the order given."""
        return TextRows([self.texts[row] for row in rows], [self.labels[row] for row in rows])

    def write(self, uri: str, storage: Storage) -> None:
        """One Parquet file with the columns `text` and `label`."""
        write_parquet(pa.table({"text": self.texts, "label": self.labels}), uri, {}, storage)


def read_rows(split: LabelledSet, learned: Learned, max_bad_fraction: float, storage: Storage) -> TextRows:
    """Read a split's usable rows, in the order of its shards.

    Raises:
        CorpusError: more rows than allowed have no usable text or label.
    """
    usable = read_split(split, find_task(TASK, "study"), learned, max_bad_fraction, storage)
    return TextRows(usable.texts[0].to_pylist(), label_names(usable.targets).to_pylist())
