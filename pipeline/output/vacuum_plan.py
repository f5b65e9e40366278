"""Which files of a table nobody needs any more. Pure functions over what `vacuum` read.

A file goes only if all of this holds:

- no version that was current within the retention names it;
- it is older than the safety age (an attempt in flight has written its file and not yet its done-record);
- no done-record names it, as a run may still publish what a record names.

Three kinds of files that records name can go too, in two steps, so that a run that has read the records can end first:
those of a fingerprint that the night no longer shows, where asked those of a night that was never published, and the
parts of a compacted file. The first vacuum forgets the records (or marks the parts as retired), a later one, after the
safety age, deletes the files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.output.compacted import CompactedFile
from pipeline.output.ledger import SNAPSHOT, DoneRecord
from pipeline.output.table import night_of
from pipeline.output.texts import described_path
from pipeline.schema import QUARANTINE
from pipeline.storage import StoredObject

LIVE = "live"
IN_RETENTION = "named by a version within the retention"
YOUNG = "younger than the safety age: an attempt in flight may still record them"
RECORDED = "named by done-records: a run may still publish them"
FORGOTTEN_NOW = "of a fingerprint the night does not show: records forgotten now, files go after the safety age"
FORGOTTEN_LATELY = "of a fingerprint the night does not show: records forgotten less than the safety age ago"
RETIRED_NOW = "parts of a compacted file: retired now, they go after the safety age"
RETIRED_LATELY = "parts of a compacted file: retired less than the safety age ago"
UNNAMED = "no version within the retention and no done-record names it"
SUPERSEDED = "of a fingerprint the night does not show"
DESCRIBING = "texts of a file that stays"
DESCRIBED_NONE = "texts of a file that is gone"
COMPACTED = "its rows stand in a compacted file"


@dataclass(frozen=True)
class VacuumOptions:
    """How long what must be kept, and whether to look only.

    Attributes:
        retention_s: For versions that were current.
        safety_s: For files and records that a run may be at work on.
        is_dry_run: Delete nothing.
        unpublished_s: For nights that were scored and not published, since their last done-record; None: for ever.
    """

    retention_s: float
    safety_s: float
    is_dry_run: bool = False
    unpublished_s: float | None = None


@dataclass(frozen=True)
class LedgerFolder:
    """The done-records of one night (or of the snapshot) under one fingerprint (its first 32 characters).

    Attributes:
        records: Read only where a decision needs them.
        newest_s: When its newest record was written; None where the store does not say.
    """

    run_date: str
    fingerprint: str
    newest_s: float | None
    records: tuple[DoneRecord, ...] = ()

    @property
    def paths(self) -> set[str]:
        """Every file its records name, relative to the table."""
        scored = {record.path for record in self.records if record.path is not None}
        bad = (record.quarantine_path for record in self.records if record.quarantine_path is not None)
        return scored | {f"{QUARANTINE}/{path}" for path in bad}


@dataclass(frozen=True)
class ForgottenFolder:
    """Files whose records were dropped, and when."""

    uri: str
    run_date: str
    fingerprint: str
    paths: frozenset[str]
    forgotten_s: float | None


@dataclass(frozen=True)
class TableState:
    """All that decides; paths are relative to the table, the quarantine's begin with `_quarantine/`.

    Attributes:
        files: Path -> object, for every Parquet file of the table and its quarantine, and every left temporary file.
        live: Paths the newest version names.
        removed_s: Path -> when a version last stopped naming it.
        ledgers: Records, at least of the nights that have files neither live nor removed lately.
        compacted: Night -> notes.
        forgotten: What earlier vacuums forgot.
    """

    files: Mapping[str, StoredObject]
    live: frozenset[str]
    removed_s: Mapping[str, float]
    ledgers: tuple[LedgerFolder, ...] = ()
    compacted: Mapping[str, tuple[CompactedFile, ...]] = field(default_factory=dict)
    forgotten: tuple[ForgottenFolder, ...] = ()


@dataclass(frozen=True)
class VacuumPlan:
    """What to do, and why.

    Attributes:
        remove: Path -> reason.
        keep: Path -> reason, for everything else.
        forget: Ledger folders whose records are to be dropped.
        retire: (night, note) whose parts are to be marked.
        drop_notes: (night, note) whose file is gone or goes now.
        drop_forgotten: Entries whose files are all gone or go now.
    """

    remove: Mapping[str, str]
    keep: Mapping[str, str]
    forget: tuple[LedgerFolder, ...] = ()
    retire: tuple[tuple[str, CompactedFile], ...] = ()
    drop_notes: tuple[tuple[str, CompactedFile], ...] = ()
    drop_forgotten: tuple[ForgottenFolder, ...] = ()


def night_of_file(path: str) -> str:
    """The night of a scored or quarantined file; empty where its folder tells none."""
    return night_of(path.removeprefix(f"{QUARANTINE}/"))


def plan_vacuum(state: TableState, options: VacuumOptions, now_s: float) -> VacuumPlan:
    """Decide for every file."""
    judge = _Judge(state, options, now_s)
    verdicts = {path: judge.verdict(path, item) for path, item in state.files.items() if not described_path(path)}
    verdicts |= {
        path: judge.verdict_on_texts(item, verdicts.get(described))
        for path, item in state.files.items()
        if (described := described_path(path)) is not None
    }
    remove = {path: reason for path, (goes, reason) in verdicts.items() if goes}
    keep = {path: reason for path, (goes, reason) in verdicts.items() if not goes}
    forgetting = {(folder.run_date, folder.fingerprint) for folder in judge.stale}
    gone = [
        entry
        for entry in state.forgotten
        if not entry.paths & keep.keys() and (entry.run_date, entry.fingerprint) not in forgetting
    ]
    notes = [(night, note) for night, found in state.compacted.items() for note in found if judge.is_over(note, keep)]
    return VacuumPlan(remove, keep, tuple(judge.stale), tuple(judge.retiring), tuple(notes), tuple(gone))


class _Judge:
    """The rules, with what they look up."""

    def __init__(self, state: TableState, options: VacuumOptions, now_s: float) -> None:
        self._state = state
        self._cutoff_s = now_s - options.retention_s
        self._safe_s = now_s - options.safety_s
        self._given_up_s = now_s - options.unpublished_s if options.unpublished_s is not None else None
        self._shown_nights = {night_of_file(path) for path in state.live}
        self.stale = [folder for folder in state.ledgers if self._is_stale(folder)]
        self.retiring = [
            (night, note) for night, notes in state.compacted.items() for note in notes if self._can_retire(note)
        ]
        self._reasons = self._reasons_of_records()

    def verdict(self, path: str, item: StoredObject) -> tuple[bool, str]:
        """(goes, why)."""
        if path in self._state.live:
            return False, LIVE
        if self._is_named(path):
            return False, IN_RETENTION
        if not _is_before(item.modified_s, self._safe_s):
            return False, YOUNG
        return self._reasons.get(path, (True, UNNAMED))

    def verdict_on_texts(self, item: StoredObject, described: tuple[bool, str] | None) -> tuple[bool, str]:
        """(goes, why) for the hashes of a scored file's texts, by the verdict on that file; None if it is gone."""
        if described is not None and not described[0]:
            return False, DESCRIBING
        return (True, DESCRIBED_NONE) if _is_before(item.modified_s, self._safe_s) else (False, YOUNG)

    def is_over(self, note: CompactedFile, keep: Collection[str]) -> bool:
        """Whether a note says nothing any more: its file is gone, and so are the parts it keeps plans away from."""
        is_gone = note.path not in self._state.live and note.path not in keep
        is_guarding = note.are_retired and any(part in keep for part in note.parts)
        return is_gone and not is_guarding and _is_before(note.noted_s, self._safe_s)

    def _is_named(self, path: str) -> bool:
        return path in self._state.live or self._state.removed_s.get(path, 0.0) >= self._cutoff_s

    def _is_stale(self, folder: LedgerFolder) -> bool:
        """Whether the night shows another fingerprint's files, and nothing of this one happened within the retention.

        A compacted file's parts belong to the fingerprint it shows. A night that shows none was never published.
        """
        is_snapshot, limit_s = folder.run_date == SNAPSHOT, min(self._cutoff_s, self._safe_s)
        if not folder.records:
            return False
        if not is_snapshot and folder.run_date not in self._shown_nights:
            return self._given_up_s is not None and _is_before(folder.newest_s, min(limit_s, self._given_up_s))
        nights = self._state.compacted.keys() if is_snapshot else {folder.run_date}
        notes = [note for night in nights for note in self._state.compacted.get(night, ())]
        shown = {part for note in notes if self._is_named(note.path) for part in note.parts}
        is_shown = any(self._is_named(path) or path in shown for path in folder.paths)
        return not is_shown and _is_before(folder.newest_s, limit_s)

    def _can_retire(self, note: CompactedFile) -> bool:
        """Whether no version within the retention needs the parts, and some still stand."""
        is_settled = note.path in self._state.live and _is_before(note.noted_s, min(self._cutoff_s, self._safe_s))
        has_parts = any(part in self._state.files for part in note.parts)
        return is_settled and has_parts and not note.are_retired and not any(map(self._is_named, note.parts))

    def _reasons_of_records(self) -> dict[str, tuple[bool, str]]:
        """Path -> verdict for old files that no version names, but a record, a note or a forgotten record does."""
        reasons: dict[str, tuple[bool, str]] = {}
        active = {
            (folder.run_date, folder.fingerprint)
            for folder in self._state.ledgers
            if not _is_before(folder.newest_s, self._safe_s)
        }
        for entry in self._state.forgotten:
            is_over = _is_before(entry.forgotten_s, self._safe_s) and (entry.run_date, entry.fingerprint) not in active
            reasons.update(dict.fromkeys(entry.paths, (True, SUPERSEDED) if is_over else (False, FORGOTTEN_LATELY)))
        for folder in self._state.ledgers:
            verdict = (False, FORGOTTEN_NOW if folder in self.stale else RECORDED)
            reasons.update(dict.fromkeys(folder.paths, verdict))
        for notes in self._state.compacted.values():
            for note in notes:
                if note.are_retired:
                    is_over = _is_before(note.noted_s, self._safe_s)
                    verdict = (True, COMPACTED) if is_over else (False, RETIRED_LATELY)
                    reasons.update(dict.fromkeys(note.parts, verdict))
        for _, note in self.retiring:
            reasons.update(dict.fromkeys(note.parts, (False, RETIRED_NOW)))
        return reasons


def _is_before(moment_s: float | None, limit_s: float) -> bool:
    """False where the moment is unknown: what cannot be dated is kept."""
    return moment_s is not None and moment_s < limit_s
