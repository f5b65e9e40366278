"""Submission ids, `<job>-<name>-<date>-<attempt>`: which attempt is to be made, or is to be followed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.remote.states import RemoteJob
from pipeline.errors import ComputeError, Problem, SpecError

DIGEST_KEY = "bertmill_digest"  # in a job's metadata


@dataclass(frozen=True)
class Wanted:
    """What is to be run: same job, name, night, content and inputs are the same work, however often asked for.

    `inputs` is a digest of what an evaluation reads, which keeps no account of what it has done; empty of other jobs.
    """

    job: str
    name: str
    night: str | None
    content: str
    inputs: str = ""

    @property
    def digest(self) -> str:
        """Of the spec with its overrides, of the night, and of the inputs."""
        return hashlib.sha256(f"{self.job}\n{self.night}\n{self.content}{self.inputs}".encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """The submission id without its attempt; work that belongs to no night is named by its content."""
        return f"{self.job}-{self.name}-{self.night or self.digest[:8]}"


@dataclass(frozen=True)
class Choice:
    """The submission id to use, and the job that already has it, if there is one to follow."""

    submission_id: str
    standing: RemoteJob | None = None


def choose_attempt(wanted: Wanted, known: Sequence[RemoteJob], again: bool = False) -> Choice:
    """Follow what runs or has succeeded; otherwise make the next attempt.

    Args:
        wanted: What is to be run.
        known: Every job of the cluster.
        again: Make a new attempt though the last one succeeded.

    Raises:
        ComputeError: the same night runs with another spec.
    """
    pattern = re.compile(re.escape(wanted.stem) + r"-(\d+)")
    attempts = {int(match[1]): job for job in known if (match := pattern.fullmatch(job.submission_id))}
    if not attempts:
        return Choice(f"{wanted.stem}-1")
    last = attempts[max(attempts)]
    is_same = last.metadata.get(DIGEST_KEY) == wanted.digest
    if not last.is_over and not is_same:
        own = f"wait for it (bertmill logs {last.submission_id}), or bertmill stop {last.submission_id}"
        remedy = f"if it is other work, give yours a --name of its own; else {own}"
        raise ComputeError(f"{last.submission_id} is running with another spec", remedy)
    if not last.is_over or (last.status == "SUCCEEDED" and is_same and not again):
        return Choice(last.submission_id, last)
    return Choice(f"{wanted.stem}-{max(attempts) + 1}")


def check_name(name: str) -> str:
    """A name that can stand in a submission id.

    Raises:
        SpecError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        problem = Problem("--name", repr(name), "letters, digits, '.', '_' and '-', a letter or digit first")
        raise SpecError("command line", (problem,))
    return name
