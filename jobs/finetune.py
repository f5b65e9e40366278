"""`bertmill finetune SPEC`: labelled Parquet and an encoder -> a bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from jobs.training import train_bundles
from pipeline.config import load_spec
from pipeline.finetune.spec import FinetuneSpec

Fresh = Annotated[bool, typer.Option("--fresh", help="give up what an unfinished run left, and start anew")]


def finetune(
    spec: SpecPath, set_: Overrides = None, address: Address = None, fresh: Fresh = False, debug: Debug = False
) -> None:
    """Fine-tune an encoder on labelled Parquet and write a bundle."""
    with running("finetune", spec, debug), stopping_on_sigterm():
        train_bundles(load_spec(spec, FinetuneSpec, set_ or ()), spec, address, fresh)


if __name__ == "__main__":
    typer.run(finetune)
