"""Two attempts of a training that are sent to W&B, offline, and a server that does not answer.

python -m tests.unit.finetune.wandb_attempts DIRECTORY
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from pipeline.errors import ComputeError
from pipeline.finetune import track
from pipeline.finetune.track import Tracker, check_track
from tests.tiny import make_encoder
from tests.unit.finetune.test_track import prepare, status


def main(directory: Path) -> None:
    """The first attempt is lost at step 20; the second goes on from before that."""
    run = prepare(directory, Path(make_encoder(directory / "tiny")), wandb="team/reviews", training={"epochs": 7})
    os.environ["WANDB_MODE"] = "offline"
    check_track(run, "spec.yaml")
    with contextlib.suppress(RuntimeError), Tracker(run) as tracker:
        tracker.add(status(20, 0.5))
        raise RuntimeError("a lost worker")
    with Tracker(run) as tracker:
        tracker.add(status(10, 0.4, validation={"recall@10": 0.75}))
    os.environ |= {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    track._WANDB_ANSWERS_S = 3
    told = "nothing"
    try:
        check_track(run, "spec.yaml")
    except ComputeError as error:
        told = error.message
    print(json.dumps({"run_name": run.run_name, "unreachable": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
