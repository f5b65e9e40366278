"""`bertmill pretrain SPEC`: unlabelled Parquet, and an encoder or the shape of one -> a bundle to fine-tune."""

from __future__ import annotations

import typer

from jobs.finetune import Fresh
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from jobs.training import train_bundles
from pipeline.config import load_spec
from pipeline.finetune.pretrain_spec import PretrainSpec


def pretrain(
    spec: SpecPath, set_: Overrides = None, address: Address = None, fresh: Fresh = False, debug: Debug = False
) -> None:
    """Train an encoder on unlabelled text, by guessing hidden tokens, and write a bundle to fine-tune."""
    with running("pretrain", spec, debug), stopping_on_sigterm():
        from pipeline.finetune.scratch import start_from_scratch

        parsed = load_spec(spec, PretrainSpec, set_ or ())
        model = parsed.model if isinstance(parsed.model, str) else start_from_scratch(parsed, parsed.model, spec)
        train_bundles(parsed.as_training(model, spec), spec, address, fresh)


if __name__ == "__main__":
    typer.run(pretrain)
