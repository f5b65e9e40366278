"""Everything a training run can know before Ray starts: model, data, labels, output, and the run's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from pipeline.corpus.reader import Columns
from pipeline.encoder.bundle import (
    BundleInfo,
    check_bundle_target,
    fingerprint_model,
    read_bundle_info,
    resolve_encoder,
)
from pipeline.encoder.model import check_family
from pipeline.encoder.tokenize import TokenOptions
from pipeline.errors import Checks, ModelError, Problem, SpecError
from pipeline.finetune.data import LabelledSet, check_labels, open_split
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, find_task
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
    def token_options(self) -> TokenOptions:
        """How text becomes tokens."""
        task = find_task(self.spec.task, "spec")
        long_text = "window" if task.windows_always else self.spec.long_text
        return TokenOptions(self.spec.max_length, long_text, self.spec.stride, task.needs_spans)

    @property
    def inputs(self) -> dict[str, str]:
        """Task input -> training column."""
        names = find_task(self.spec.task, "spec").inputs
        return dict(zip(names, self.train.columns.inputs, strict=True))

    @property
    def cache_uri(self) -> str:
        """Where this tokenizer's ids for these columns are kept."""
        learned = self.train.learned
        key = {
            "tokenizer": fingerprint_model(self.encoder, tokenizer_only=True),
            "task": self.spec.task,
            "tokens": asdict(self.token_options),
            "columns": [self.train.columns.inputs, self.train.columns.kept],
            "learned": [learned.labels, sorted(learned.options.items())],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
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
    if not task.is_trained:
        problem = Problem(
            "task", f"{spec.task} has nothing to train", "another task", "`bertmill bundle` wraps an encoder"
        )
        raise SpecError(source, (problem,))
    if spec.long_text == "window" and len(task.inputs) > 1 and not task.windows_always:
        # the windows of two long texts would be every combination of both
        problem = Problem("long_text", f"window, for the pairs of task {spec.task}", "truncate")
        raise SpecError(source, (problem,))
    check_inputs(spec.data.inputs, task.inputs, source)
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
    check_labels(task, train_set, validation, source)
    check_family(encoder, task.head_class, spec.max_length)
    data_parts = [train_set.fingerprint, validation.fingerprint if validation else ""]
    data_fingerprint = hashlib.sha256("".join(data_parts).encode()).hexdigest()
    fingerprint = spec.fingerprint(data_fingerprint, fingerprint_model(encoder))
    return PreparedTraining(spec, encoder, train_set, validation, fingerprint, data_fingerprint)
