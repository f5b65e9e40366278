"""`bertmill finetune SPEC`: labelled Parquet and an encoder -> a bundle."""

from __future__ import annotations

import typer

from jobs.cluster import ray_session
from jobs.session import Address, Debug, Overrides, SpecPath, guarded, preparing
from pipeline.config import load_spec
from pipeline.finetune.spec import FinetuneSpec


def finetune(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Fine-tune an encoder on labelled Parquet and write a bundle."""
    with guarded(debug):
        from pipeline.finetune.prepare import prepare_training
        from pipeline.finetune.run import run_training

        parsed = load_spec(spec, FinetuneSpec, set_ or ())
        with preparing():
            run = prepare_training(parsed, spec)
            finished = run.finished_bundles()
        if finished is None:
            for head in run.heads:
                print(f"training {head.name or head.task.name} on {head.train.num_rows:,} rows ({run.run_name})")
            with ray_session(parsed.compute, address) as pool:
                finished = run_training(run, pool)
        else:
            print(f"already trained: {parsed.output} comes from this very recipe, data and encoder ({run.run_name})")
        for name, info in finished.items():
            figures = ", ".join(f"{metric} {value:.4f}" for metric, value in info.metrics.items())
            print(f"bundle {parsed.output_of(name)}  model_version {info.model_version}")
            print(f"validation: {figures or 'none given'}")


if __name__ == "__main__":
    typer.run(finetune)
