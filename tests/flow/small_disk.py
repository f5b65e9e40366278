"""Nights on disks of many sizes, all but the last too small: real ones, in a mount namespace of this process.

unshare --map-root-user --mount python -m tests.flow.small_disk DIRECTORY
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from pipeline.output import lock
from tests.flow import helpers
from tests.flow.alone import score_alone, without_ray
from tests.tiny import make_bundle

SIZES_KIB = tuple(range(8, 208, 20))
ROOM_KIB = 65_536
UNSHARE = ("unshare", "--map-root-user", "--mount")


@dataclass(frozen=True)
class Found:
    """What became of a night on a disk of one size, and of the same command once there was room."""

    size_kib: int
    exit_code: int
    stderr: str
    num_shown: int
    exit_code_again: int
    stderr_again: str
    ids: list[str]


def can_mount() -> bool:
    """Whether this machine lets a process have mounts of its own."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def night_on_a_disk(directory: Path, size_kib: int) -> Found:
    disk = directory / f"disk-{size_kib}"
    disk.mkdir()
    _mount(disk, f"size={size_kib}k")
    spec = helpers.score_spec(
        str(directory / "bundle"), str(directory / "corpus"), str(disk / "scores"), corpus={"shard_rows": 20}
    )
    stopped = score_alone(spec, directory)
    num_shown = len(helpers.read_rows(spec.output.uri))
    _mount(disk, f"remount,size={ROOM_KIB}k")
    again = score_alone(spec, directory)
    ids = [row["id"] for row in helpers.read_rows(spec.output.uri)]
    return Found(size_kib, stopped.exit_code, stopped.stderr, num_shown, again.exit_code, again.stderr, ids)


def _mount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


def main(directory: Path) -> None:
    """Print what was found, a line for each size."""
    make_bundle(directory / "bundle", ("no", "yes"))
    helpers.write_demo_corpus(str(directory / "corpus"), num_files=2, rows_per_file=60)
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        # A lease that a full disk did not let end is known by its dead process; here that lives on.
        patch.setattr(lock, "STALE_S", 1.0)
        for size_kib in (*SIZES_KIB, ROOM_KIB):
            print(json.dumps(asdict(night_on_a_disk(directory, size_kib))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
