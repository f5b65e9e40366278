"""Starts a real S3 server (SeaweedFS) on loopback, on ports picked free, and stops it by its own pid."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

BUCKET = "bertmill-test"
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")


@dataclass
class S3Server:
    """A running server."""

    endpoint_url: str
    process: subprocess.Popen[bytes]
    bucket: str = BUCKET
    access_key: str = "flow-test-key"
    secret_key: str = "flow-test-secret"

    def environment(self) -> dict[str, str]:
        """The standard AWS variables for this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(directory: Path) -> S3Server:
    """Start a server and wait until its bucket is there, which is some time after it answers."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    weed = Path(sys.executable).parent / "weed"
    command = [str(weed), "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}"]
    command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
    # Their ports are fixed, and a second server that finds them taken ends itself.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": S3Server.access_key, "AWS_SECRET_ACCESS_KEY": S3Server.secret_key}
    log = (directory / "server.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", process)
    _wait_ready(server, directory / "server.log")
    return server


def _wait_ready(server: S3Server, log: Path) -> None:
    client = Session().create_client(
        "s3",
        "us-east-1",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1}),
    )
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and server.process.poll() is None:
        try:
            client.head_bucket(Bucket=server.bucket)
            return
        except (ClientError, BotoCoreError):
            pass
        time.sleep(0.2)
    server.stop()
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Ports outside 10002-19999, which Ray's workers use; each also free 10,000 above, where gRPC listens."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(20_000, 50_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
