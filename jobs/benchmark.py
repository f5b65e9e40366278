"""`bertmill benchmark SPEC`: bertmill beside other programs, on the same work, in turns."""

from __future__ import annotations

import os

import typer

from jobs.running import running
from jobs.session import Debug, Overrides, SpecPath
from pipeline.config import load_spec
from pipeline.studies.benchmark.spec import BenchmarkSpec


def benchmark(spec: SpecPath, set_: Overrides = None, debug: Debug = False) -> None:
    """Measure bertmill beside Sentence Transformers, OpenVINO, pipelines and the Trainer, in this process."""
    with running("benchmark", spec, debug):
        from jobs.cluster import ray_session
        from jobs.start_up import COMMANDS
        from pipeline.studies.benchmark.run import Jobs, run_benchmark

        parsed = load_spec(spec, BenchmarkSpec, set_ or ())
        given = parsed.compute.cpus_per_worker
        jobs = Jobs(lambda compute: ray_session(compute, None), COMMANDS)
        print(run_benchmark(parsed, (os.cpu_count() or 1) if given == "auto" else given, jobs))
        print(f"written to {parsed.output}: benchmark.md, benchmark.parquet, benchmark.png")


if __name__ == "__main__":
    typer.run(benchmark)
