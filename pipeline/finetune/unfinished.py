"""A run that was started and has not finished: another recipe must not take its place unnoticed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import BertmillError, ModelError, OutputTakenError, TrainingError
from pipeline.finetune.prepare import PreparedTraining, run_name_of
from pipeline.uris import join_uri

_NOTE = "unfinished.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of the run's checkpoints
_FILES = {"data": "the training or validation files", "model": "the encoder's files"}


def check_unfinished(run: PreparedTraining) -> None:
    """Refuse a recipe that differs from the one that stopped halfway; the very same one goes on.

    Raises:
        OutputTakenError: naming every field that differs.
        TrainingError: the note of it or the list of its checkpoints is damaged.
    """
    note = _read_note(run)
    if note is None:
        return
    if note["run_name"] == run.run_name:
        _check_snapshot(run)
        return
    changes = "\n".join(f"- {change}" for change in _compare(note["recipe"], run.recipe))
    raise OutputTakenError(
        f"{run.spec.work_uri}: holds an unfinished run ({note['run_name']}) of another recipe:\n{changes}",
        "undo the change to go on with that run, or give it up with --fresh, or choose another `output`",
    )


def holds_another(run: PreparedTraining) -> bool:
    """Whether the unfinished run here, if there is one, is of another recipe."""
    note = _read_note(run)
    return note is not None and note["run_name"] != run.run_name


@contextlib.contextmanager
def noted(run: PreparedTraining) -> Iterator[None]:
    """A note of the recipe stands here until it is done, or fails before there is a checkpoint to go on from."""
    note_started(run)
    try:
        yield
    except BertmillError:
        with contextlib.suppress(BertmillError):  # a store that fails now too must not hide what went wrong first
            if run.storage.read_bytes(_snapshot_uri(run)) is None:
                note_finished(run)
        raise
    note_finished(run)


def note_started(run: PreparedTraining) -> None:
    """Write down which recipe is at work here."""
    note = {"run_name": run.run_name, "recipe": run.recipe}
    run.storage.write_bytes(_note_uri(run), json.dumps(note, indent=2).encode())


def note_finished(run: PreparedTraining) -> None:
    """There is nothing left to go on with."""
    run.storage.delete(_note_uri(run))


def give_up_unfinished(run: PreparedTraining) -> str | None:
    """Delete the checkpoints and metrics of the run that stopped halfway; its token cache stays.

    Returns:
        Its name; None if there was none.
    """
    note = _read_note(run)
    if note is None:
        return None
    name = str(note["run_name"])
    for item in run.storage.list_objects(join_uri(run.spec.work_uri, name)):
        run.storage.delete(item.uri)
    note_finished(run)
    return name


def _read_note(run: PreparedTraining) -> dict[str, Any] | None:
    """What was at work here; None if nothing was, or if it ended with its bundles and only the note outlived it."""
    content = run.storage.read_bytes(_note_uri(run))
    if content is None:
        return None
    try:
        note = dict(json.loads(content))
        name, heads = note["run_name"], note["recipe"]["heads"]
    except (ValueError, TypeError, KeyError):
        raise TrainingError(
            f"{_note_uri(run)}: the note of which run is at work here is damaged or half-written",
            "remove it: with its own recipe that run still goes on from its checkpoints",
        ) from None
    return None if _has_bundles(run, name, heads) else note


def _has_bundles(run: PreparedTraining, name: str, heads: list[str]) -> bool:
    """Whether the run of this name has written the bundles of all its heads."""
    try:
        infos = [read_bundle_info(run.spec.output_of(head), run.storage) for head in heads]
    except ModelError:
        return False
    return all(run_name_of(info.run_fingerprint) == name for info in infos)


def _check_snapshot(run: PreparedTraining) -> None:
    content = run.storage.read_bytes(_snapshot_uri(run))
    try:
        is_whole = content is None or isinstance(json.loads(content), dict)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise TrainingError(
            f"{_snapshot_uri(run)}: Ray's list of the run's checkpoints is damaged or half-written",
            f"give the run up with --fresh, or remove {join_uri(run.spec.work_uri, run.run_name)}: it then starts anew",
        )


def _snapshot_uri(run: PreparedTraining) -> str:
    return join_uri(run.spec.work_uri, run.run_name, _SNAPSHOT)


def _note_uri(run: PreparedTraining) -> str:
    return join_uri(run.spec.work_uri, _NOTE)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, a line for each field."""
    fields = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    return [
        f"{_FILES[field]} have changed"
        if field in _FILES
        else f"{field} was {before.get(field)!r} and is {now.get(field)!r}"
        for field in fields
    ]
