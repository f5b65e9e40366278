"""What `finetune` and `pretrain` share: a checked training, run to its bundles."""

from __future__ import annotations

from jobs.cluster import ray_session
from pipeline.encoder.bundle import BundleInfo
from pipeline.finetune.spec import FinetuneSpec


def train_bundles(parsed: FinetuneSpec, source: str, address: str | None, fresh: bool) -> None:
    """Train what is not trained yet, once or with each of several seeds, and print what came of it.

    Args:
        parsed: What is to be trained.
        source: The spec's name, for errors.
        address: Of a Ray cluster, if not a local one.
        fresh: Give up what an unfinished run left.
    """
    from pipeline.studies.seeds import write_seeds

    if not parsed.seeds:
        _train(parsed, source, address, fresh)
    else:
        print(write_seeds(parsed, {n: _train(parsed.with_seed(n), source, address, fresh) for n in parsed.seeds}))


def _train(parsed: FinetuneSpec, source: str, address: str | None, fresh: bool) -> dict[str, BundleInfo]:
    from pipeline.finetune.prepare import prepare_training
    from pipeline.finetune.run import run_training
    from pipeline.finetune.track import check_track
    from pipeline.finetune.training_report import report_uri
    from pipeline.finetune.unfinished import check_unfinished, give_up_unfinished, noted

    run = prepare_training(parsed, source)
    check_track(run, source)
    if fresh and (given_up := give_up_unfinished(run)):
        print(f"gave up {given_up}: its checkpoints are deleted")
    finished = run.finished_bundles()
    if finished is None:
        check_unfinished(run)
    if finished is None:
        for remark in [*run.remarks, *run.replaced_bundles()]:
            print(f"note: {remark}")
        for head in run.heads:
            print(f"training {head.name or head.task.name} on {head.train.num_rows:,} rows ({run.run_name})")
        with noted(run), ray_session(parsed.compute, address) as pool:
            finished = run_training(run, pool)
        is_reported = run.storage.read_bytes(report_uri(run)) is not None
        print(f"report {report_uri(run)}" if is_reported else "note: the training report could not be written")
    else:
        print(f"already trained: {parsed.output} comes from this very recipe, data and encoder ({run.run_name})")
    for name, info in finished.items():
        figures = ", ".join(f"{metric} {value:.4f}" for metric, value in info.metrics.items())
        print(f"bundle {parsed.output_of(name)}  model_version {info.model_version}")
        print(f"validation: {figures or 'none given'}")
    return finished
