"""`bertmill finetune` whose workers write down which rows they train on, below WORK/record.

python -m tests.flow.recorded SPEC [OPTIONS]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.recording import record_steps


def train_and_record(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs, in place of bertmill's own function and around it."""
    import ray
    import ray.train.collective

    from pipeline.finetune import run

    attempt = ray.train.collective.broadcast_from_rank_zero(time.time())
    record_steps(Path(config["run"].spec.work_uri), attempt, ray.get_runtime_context().get_node_id())
    run._train_on_worker(config)


def main() -> None:
    """`bertmill finetune` with recording workers."""
    import jobs.cli
    from pipeline.finetune import run
    from tests.flow.recorded import train_and_record as recording  # by this module's own name, as workers import it

    run._train_on_worker = recording
    sys.argv = ["bertmill", "finetune", *sys.argv[1:]]
    jobs.cli.main()


if __name__ == "__main__":
    main()
