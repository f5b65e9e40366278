"""`python -m jobs.scale`: what planning a million files costs, and Ray with many workers. No part of `bertmill`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.session import Address

_WORKER_CPUS = 0.01  # a worker that sleeps needs none, so that hundreds fit one machine's count of them


def scale(
    files: Annotated[int, typer.Option(help="files of the largest case", min=100)] = 1_000_000,
    stream: Annotated[int | None, typer.Option(help="stream so many shards through Ray instead", min=1)] = None,
    workers: Annotated[int, typer.Option(help="how many workers do so", min=1)] = 1,
    shard_s: Annotated[float, typer.Option("--shard-seconds", help="how long they sleep for each", min=0.0)] = 0.0,
    simulate: Annotated[int | None, typer.Option(help="a run of so many shards on paper instead", min=1)] = None,
    driver_ms: Annotated[float, typer.Option(help="what its driver takes for a shard", min=0.0)] = 12.0,
    address: Address = None,
) -> None:
    """Plan made-up corpora, each in a process of its own, and print seconds and memory."""
    if stream is not None:
        from jobs.cluster import ray_session
        from pipeline.config import ComputeConfig, PoolOptions
        from pipeline.studies.stream_scale import describe_stream, measure_stream

        with ray_session(ComputeConfig(device="cpu", cpus_per_worker=1), address):
            print(describe_stream(measure_stream(stream, PoolOptions(workers, _WORKER_CPUS, 0.0), shard_s)))
        return
    if simulate is not None:
        from pipeline.studies.schedule import describe_runs, plan_runs

        print(describe_runs(plan_runs(simulate, (shard_s,) if shard_s else (1.0, 5.0, 20.0), driver_ms / 1000)))
        return
    from pipeline.studies.scale import measure_alone, scale_table, usual_cases

    print(scale_table(list(measure_alone(usual_cases(files)))))


if __name__ == "__main__":
    typer.run(scale)
