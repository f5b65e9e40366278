"""`bertmill finetune SPEC`: labelled Parquet and an encoder -> a bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cluster import ray_session
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, preparing, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.finetune.spec import FinetuneSpec

Fresh = Annotated[bool, typer.Option("--fresh", help="give up what an unfinished run left, and start anew")]


def finetune(
    spec: SpecPath, set_: Overrides = None, address: Address = None, fresh: Fresh = False, debug: Debug = False
) -> None:
    """Fine-tune an encoder on labelled Parquet and write a bundle."""
    with running("finetune", spec, debug), stopping_on_sigterm():
        from pipeline.finetune.prepare import prepare_training
        from pipeline.finetune.run import run_training
        from pipeline.finetune.unfinished import check_unfinished, give_up_unfinished, note_finished, note_started

        parsed = load_spec(spec, FinetuneSpec, set_ or ())
        with preparing():
            run = prepare_training(parsed, spec)
            if fresh and (given_up := give_up_unfinished(run)):
                print(f"gave up {given_up}: its checkpoints are deleted")
            finished = run.finished_bundles()
            if finished is None:
                check_unfinished(run)
        if finished is None:
            for remark in run.remarks:
                print(f"note: {remark}")
            note_started(run)
            for head in run.heads:
                print(f"training {head.name or head.task.name} on {head.train.num_rows:,} rows ({run.run_name})")
            with ray_session(parsed.compute, address) as pool:
                finished = run_training(run, pool)
            note_finished(run)
        else:
            print(f"already trained: {parsed.output} comes from this very recipe, data and encoder ({run.run_name})")
        for name, info in finished.items():
            figures = ", ".join(f"{metric} {value:.4f}" for metric, value in info.metrics.items())
            print(f"bundle {parsed.output_of(name)}  model_version {info.model_version}")
            print(f"validation: {figures or 'none given'}")


if __name__ == "__main__":
    typer.run(finetune)
