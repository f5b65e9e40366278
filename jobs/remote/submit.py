"""`bertmill submit JOB SPEC --address http://HEAD:8265`: run a job on a cluster, once, and end as it ends."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml

from jobs.nights import parse_date
from jobs.remote.attempts import DIGEST_KEY, Choice, Wanted, check_name, choose_attempt
from jobs.remote.ends import finish
from jobs.remote.inputs import digest_inputs
from jobs.remote.options import JOB_SPECS, NIGHT_JOBS, JobServerAddress, RemoteJobName
from jobs.remote.project import (
    SPEC_FILE,
    Pins,
    check_places,
    local_places,
    read_pins,
    runtime_environment,
    spec_as_yaml,
    stage_project,
)
from jobs.remote.server import JobServer, connect
from jobs.running import running
from jobs.session import Debug, Overrides, SpecPath, stopping_on_sigterm
from pipeline.config import load_spec
from pipeline.errors import ClusterLostError, Problem, SpecError
from pipeline.inference.spec import EvaluateSpec

Night = Annotated[str | None, typer.Option("--date", help="the night, YYYY-MM-DD; of jobs that have nights")]
Name = Annotated[str | None, typer.Option(help="name in the submission id; default: the spec's file name")]
Cpus = Annotated[float, typer.Option(min=0, help="CPUs reserved for the driver; 0: it runs on the head node")]
Memory = Annotated[float, typer.Option(min=0, help="GB of memory reserved for the driver")]
Pip = Annotated[list[str] | None, typer.Option(help="a package the cluster lacks; its version is the constraints'")]
Constraints = Annotated[Path, typer.Option(help="file of name==version lines")]
Again = Annotated[bool, typer.Option(help="a new attempt though the last one succeeded")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="follow the log, and end with the job's exit status")]


def submit(
    job: Annotated[RemoteJobName, typer.Argument(help="which job")],
    spec: SpecPath,
    date_: Night = None,
    set_: Overrides = None,
    address: JobServerAddress = None,
    name: Name = None,
    cpus: Cpus = 0,
    memory_gb: Memory = 0,
    pip: Pip = None,
    constraints: Constraints = Path("constraints.txt"),
    again: Again = False,
    wait: Wait = True,
    debug: Debug = False,
) -> None:
    """Run a job on a Ray cluster through its job server: once, whatever is asked twice."""
    with running(f"submit {job.value}", spec, debug, date_), stopping_on_sigterm():
        parsed = load_spec(spec, JOB_SPECS[job], set_ or ())
        check_places(parsed, spec)
        wanted = Wanted(job.value, check_name(name or Path(spec).stem), _night(job, date_), spec_as_yaml(parsed))
        pins = read_pins(pip or (), constraints)
        server = connect(address)
        if isinstance(parsed, EvaluateSpec):  # which keeps no account of what it has done
            inputs = digest_inputs(parsed)
            wanted, again = replace(wanted, inputs=inputs or ""), again or inputs is None
        resources = {"entrypoint_num_cpus": cpus, "entrypoint_memory": int(memory_gb * 10**9)}
        choice = _submit(server, wanted, pins, resources, again)
        if wait:
            finish(server, choice.submission_id)


def _night(job: RemoteJobName, date: str | None) -> str | None:
    if (job in NIGHT_JOBS) == (date is not None):
        return parse_date(date) if date else None
    found = f"is missing for {job.value}" if date is None else f"is given, and {job.value} has no nights"
    jobs = ", ".join(other.value for other in NIGHT_JOBS)
    raise SpecError("command line", (Problem("--date", found, f"a date, for {jobs} alone"),))


def _submit(server: JobServer, wanted: Wanted, pins: Pins | None, resources: dict[str, float], again: bool) -> Choice:
    for _ in range(3):  # another submitter may take the attempt in between
        choice = choose_attempt(wanted, server.find(), again)
        if choice.standing is not None:
            hint = "; --again makes a new attempt" if choice.standing.status == "SUCCEEDED" else ""
            print(f"{choice.submission_id} is already {choice.standing.status.lower()} at {server.address}{hint}")
            return choice
        with tempfile.TemporaryDirectory() as directory:
            stage_project(Path(directory), wanted.content, pins)
            is_mine = server.submit(
                entrypoint=_entrypoint(wanted),
                submission_id=choice.submission_id,
                runtime_env=runtime_environment(Path(directory), pins),
                metadata=_metadata(wanted),
                **{key: value for key, value in resources.items() if value},
            )
        if is_mine:
            for place in sorted(local_places(yaml.safe_load(wanted.content))):
                print(f"note: {place} is read and written on the cluster's machines", file=sys.stderr)
            print(f"submitted {choice.submission_id} to {server.address}", flush=True)
            return choice
    raise ClusterLostError(f"{wanted.stem}: others submit it at the same time", "run the same command again")


def _entrypoint(wanted: Wanted) -> str:
    module = "jobs." + wanted.job.replace("-", "_")
    return shlex.join(["python", "-m", module, SPEC_FILE, *(["--date", wanted.night] if wanted.night else [])])


def _metadata(wanted: Wanted) -> dict[str, str]:
    night = {"bertmill_night": wanted.night} if wanted.night else {}
    return {"bertmill_job": wanted.job, "bertmill_name": wanted.name, DIGEST_KEY: wanted.digest, **night}
