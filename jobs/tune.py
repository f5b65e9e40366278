"""`bertmill tune SPEC`: many recipes drawn from a space, compared; the best becomes a bundle."""

from __future__ import annotations

import typer

from jobs.cells import check_room, raise_failures
from jobs.cluster import ray_session
from jobs.running import running
from jobs.session import Address, Debug, Overrides, SpecPath, stopping_on_sigterm
from jobs.training import train_bundles
from pipeline.config import load_spec
from pipeline.errors import TrainingError
from pipeline.studies.tune_spec import TuneSpec


def tune(spec: SpecPath, set_: Overrides = None, address: Address = None, debug: Debug = False) -> None:
    """Train with many recipes drawn from a space, and keep the best."""
    with running("tune", spec, debug), stopping_on_sigterm():
        from pipeline.finetune.unfinished import holds_another
        from pipeline.studies.run import run_trials
        from pipeline.studies.tune_checks import prepare_tune
        from pipeline.studies.tune_report import write_tune

        parsed = load_spec(spec, TuneSpec, set_ or ())
        prepared = prepare_tune(parsed, spec)
        num_trials, num_pending = len(prepared.trials), len(prepared.pending)
        if num_trials < parsed.trials:
            print(f"note: the space holds {num_trials} recipes, fewer than the {parsed.trials} trials asked for")
        print(f"{num_trials} trials by {prepared.goal}, of which {num_trials - num_pending} are already done")
        failures: dict[str, str] = {}
        if num_pending:
            with ray_session(parsed.compute, address) as pool:
                check_room(parsed.cpus_per_trial, "trial")
                failures = run_trials(prepared, pool)
        ended = prepared.read_records()
        print(write_tune(ended))
        raise_failures("trials", failures, num_trials)
        if ended.best is None:
            raise TrainingError("no trial finished", "tune.md says why; change the space")
        print(f"written to {parsed.output}: tune.parquet, tune.md, tune.png\nbest: {ended.best.name}")
        train_bundles(ended.best.work.spec, spec, address, fresh=holds_another(ended.best.work))


if __name__ == "__main__":
    typer.run(tune)
