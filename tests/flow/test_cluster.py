"""`--address`: the same job on a cluster of two nodes, started apart from the job, as `ray job submit` would run it.

The nodes say that they have a GPU each, as Ray places workers then; there is none, so the workers compute on CPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.output.history import read_nights
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.flow.s3_server import S3Server
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

_TWO_NODES = """
import sys
from tests.flow.clusters import own_cluster, run_on
with own_cluster(num_cpus=2, num_gpus=1) as cluster:
    cluster.add_node(num_cpus=2, num_gpus=1)
    sys.exit(run_on(cluster, [sys.executable, "-m", "jobs.score", *sys.argv[1:]]))
"""


def test_score_on_a_cluster_of_two_nodes(tmp_path: Path, s3_server: S3Server) -> None:
    root = f"s3://{s3_server.bucket}/cluster"
    helpers.write_demo_corpus(join_uri(root, "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    bundle = helpers.upload_directory(tmp_path / "bundle", join_uri(root, "bundle"))
    spec = helpers.score_spec(bundle, join_uri(root, "corpus"), join_uri(root, "scores"))
    spec_file = str(helpers.write_spec(tmp_path, spec))
    options = ["--date", helpers.NIGHT, "--set", "compute.workers=2", "--set", "compute.cpus_per_worker=1"]

    done = helpers.run_python(_TWO_NODES, spec_file, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,200 = 1,192 scored + 8 quarantined" in done.stdout
    (night,) = read_nights(spec.output.uri, Storage())
    assert night.num_rows == 1192


def test_unknown_address_is_one_message(tmp_path: Path) -> None:
    helpers.write_demo_corpus(str(tmp_path / "corpus"), num_files=1)
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))
    command = [sys.executable, "-m", "jobs.score", str(helpers.write_spec(tmp_path, spec)), "--address", "127.0.0.1:1"]
    done = subprocess.run(
        command, cwd=helpers.REPOSITORY, env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "scores").exists()
