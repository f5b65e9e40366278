"""What is printed about a finished night."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.printing import print_run
from tests.unit.inference.nights import Story


def test_a_night_without_new_files_was_not_published_before(
    tmp_path: Path, bundle_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path, bundle_directory, {"select": "new"})
    story.put("first", 20, seed=1)
    print_run(story.night("2026-11-23"))
    assert f"published: night 2026-11-23 of {story.table}, version 1\n" in capsys.readouterr().out
    print_run(story.night("2026-11-24"))
    said = "published without a commit, as no row was scored: night 2026-11-24 of"
    assert capsys.readouterr().out.startswith(f"{said} {story.table}, version 1\n")


def test_files_left_out_do_not_stand_in_earlier_nights(
    tmp_path: Path, bundle_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path, bundle_directory, {"select": "new"}, blocks={"corpus": {"corrupt_files": "skip"}})
    for seed, name in enumerate("ab"):
        story.put(name, 20, seed)
    print_run(story.night("2026-11-23"))
    assert "earlier nights" not in capsys.readouterr().out
    for seed, name in enumerate("cd"):
        story.put(name, 20, seed + 2)
    story.spoil("d")
    print_run(story.night("2026-11-24"))
    assert "  2 files of the corpus stand in earlier nights, unchanged\n" in capsys.readouterr().out


def test_a_night_without_a_token_has_no_share_of_padding(
    tmp_path: Path, bundle_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path, bundle_directory, blocks={"corpus": {"max_bad_fraction": 1.0}})
    story.put("blank", 20, seed=1)
    rows = pq.read_table(story.corpus / "blank.parquet")
    pq.write_table(rows.set_column(1, "text", pa.array([" "] * 20)), story.corpus / "blank.parquet")
    print_run(story.night("2026-11-23"))
    said = capsys.readouterr().out
    assert "20 = 0 scored + 20 quarantined" in said
    assert "; padding unknown; " in said
