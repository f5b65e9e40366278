from __future__ import annotations

import pytest

from jobs.remote.attempts import DIGEST_KEY, Choice, Wanted, check_name, choose_attempt
from jobs.remote.states import RemoteJob
from pipeline.errors import ComputeError, SpecError

NIGHT = Wanted("nightly", "scores", "2026-11-23", "a: 1\n")
OTHER = Wanted("nightly", "scores", "2026-11-23", "a: 2\n")


def job(attempt: int, status: str, wanted: Wanted = NIGHT) -> RemoteJob:
    return RemoteJob(f"{wanted.stem}-{attempt}", status, metadata={DIGEST_KEY: wanted.digest})


def test_an_id_names_the_job_the_spec_the_night_and_the_attempt() -> None:
    assert choose_attempt(NIGHT, []) == Choice("nightly-scores-2026-11-23-1")


def test_work_of_no_night_is_named_by_its_content() -> None:
    first, second = Wanted("finetune", "s", None, "a: 1\n"), Wanted("finetune", "s", None, "a: 2\n")
    assert first.stem == f"finetune-s-{first.digest[:8]}"
    assert first.stem != second.stem


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_what_runs_or_has_succeeded_is_followed(status: str) -> None:
    standing = job(2, status)
    assert choose_attempt(NIGHT, [job(1, "FAILED"), standing]) == Choice(standing.submission_id, standing)


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_what_failed_or_was_stopped_gets_the_next_attempt(status: str) -> None:
    assert choose_attempt(NIGHT, [job(9, "FAILED"), job(10, status)]) == Choice("nightly-scores-2026-11-23-11")


def test_another_spec_or_a_wish_is_a_new_attempt_after_success() -> None:
    known = [job(1, "SUCCEEDED")]
    assert choose_attempt(OTHER, known) == Choice("nightly-scores-2026-11-23-2")
    assert choose_attempt(NIGHT, known, again=True) == Choice("nightly-scores-2026-11-23-2")


def test_another_spec_of_a_running_night_is_refused() -> None:
    with pytest.raises(ComputeError, match=r"nightly-scores-2026-11-23-1 is running with another spec") as caught:
        choose_attempt(OTHER, [job(1, "RUNNING")], again=True)
    assert "if it is other work, give yours a --name of its own" in caught.value.remedy


def test_jobs_of_other_names_and_nights_do_not_count() -> None:
    known = [RemoteJob(f"{stem}-1", "RUNNING") for stem in ("nightly-scores-2026-11-22", "nightly-scoresX2026-11-23")]
    known.append(RemoteJob("nightly-scores-2026-11-23-1-1", "RUNNING"))
    assert choose_attempt(NIGHT, known) == Choice("nightly-scores-2026-11-23-1")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a" * 101])
def test_a_name_that_fits_no_id_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="1 problem"):
        check_name(name)
