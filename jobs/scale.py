"""`python -m jobs.scale`: what planning costs the driver at a million files. No part of the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.session import Address


def scale(
    files: Annotated[int, typer.Option(help="files of the largest case", min=100)] = 1_000_000,
    stream: Annotated[int | None, typer.Option(help="measure Ray's driver with so many shards instead", min=1)] = None,
    address: Address = None,
) -> None:
    """Plan made-up corpora, each in a process of its own, and print seconds and memory."""
    if stream is not None:
        from jobs.cluster import ray_session
        from pipeline.config import ComputeConfig
        from pipeline.studies.stream_scale import describe_stream, measure_stream

        with ray_session(ComputeConfig(device="cpu", cpus_per_worker=1), address) as pool:
            print(describe_stream(measure_stream(stream, pool)))
        return
    from pipeline.studies.scale import measure_alone, scale_table, usual_cases

    print(scale_table(list(measure_alone(usual_cases(files)))))


if __name__ == "__main__":
    typer.run(scale)
