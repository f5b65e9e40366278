"""Everything a training run can know before Ray starts: model, data, labels, output, and the run's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from pipeline.corpus.reader import Columns
from pipeline.encoder.bundle import (
    BundleInfo,
    check_bundle_target,
    fingerprint_model,
    read_bundle_info,
    resolve_encoder,
)
from pipeline.errors import Checks, ModelError
from pipeline.finetune.data import LabelledSet, check_labels, open_split
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.uris import join_uri


@dataclass(frozen=True)
class PreparedTraining:
    """Everything known before Ray starts."""

    spec: FinetuneSpec
    encoder: str
    train: LabelledSet
    validation: LabelledSet | None
    fingerprint: str
    data_fingerprint: str

    @property
    def storage(self) -> Storage:
        """The spec's stores."""
        return Storage(self.spec.storage)

    @property
    def cache_uri(self) -> str:
        """Where this tokenizer's ids for these columns are kept."""
        key = [fingerprint_model(self.encoder, tokenizer_only=True), self.spec.training.max_length]
        columns = [list(self.train.columns.inputs), list(self.train.columns.kept)]
        digest = hashlib.sha256(json.dumps([key, columns]).encode()).hexdigest()[:32]
        return join_uri(self.spec.work_uri, "token_cache", digest)

    @property
    def run_name(self) -> str:
        """Derives from the spec and the data: another recipe never resumes this run's checkpoints."""
        return f"run-{self.fingerprint[:16]}"

    def finished_bundle(self) -> BundleInfo | None:
        """The bundle this very run has already written, if it has."""
        try:
            info = read_bundle_info(self.spec.output, self.storage)
        except ModelError:
            return None
        return info if info.run_fingerprint == self.fingerprint else None


def prepare_training(spec: FinetuneSpec, source: str) -> PreparedTraining:
    """Check model, data, labels and output. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage = Storage(spec.storage)
    task = find_task(spec.task, source)
    inputs = tuple(spec.data.inputs.get(name, name) for name in task.inputs)
    columns = Columns(inputs, (spec.data.label or task.target,))
    checks = Checks()
    encoder = checks.run(lambda: resolve_encoder(spec.model, storage))
    checks.run(lambda: check_bundle_target(spec.output, storage))
    train_set = checks.run(lambda: open_split(spec.data.train, task, columns, storage))
    held_out = spec.data.validation
    validation = checks.run(lambda: open_split(held_out, task, columns, storage)) if held_out else None
    checks.raise_failures()
    assert encoder is not None
    assert train_set is not None
    check_labels(train_set, validation, source)
    data_parts = [train_set.fingerprint, validation.fingerprint if validation else ""]
    data_fingerprint = hashlib.sha256("".join(data_parts).encode()).hexdigest()
    fingerprint = spec.fingerprint(data_fingerprint, fingerprint_model(encoder))
    return PreparedTraining(spec, encoder, train_set, validation, fingerprint, data_fingerprint)
