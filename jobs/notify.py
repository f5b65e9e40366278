"""Word of how a job ended, to a webhook or a command that environment variables name: a URL is often a secret."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

URL_VARIABLE, COMMAND_VARIABLE = "BERTMILL_NOTIFY_URL", "BERTMILL_NOTIFY_COMMAND"
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Ending:
    """How a job ended, and after how many seconds."""

    job: str
    spec: str
    night: str | None
    exit_code: int
    message: str
    seconds: float

    def as_json(self) -> str:
        """These fields, when and where, and `text`: one line, which chat webhooks show."""
        did = "succeeded" if self.exit_code == 0 else f"ended with exit status {self.exit_code}"
        what = " ".join(word for word in (self.job, self.spec, self.night) if word)
        text = f"bertmill {what} {did} after {self.seconds:,.0f} s on {socket.gethostname()}"
        text += f": {self.message[:500]}" if self.message and self.exit_code else ""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({**asdict(self), "host": socket.gethostname(), "time": now, "text": text})


def notify(ending: Ending) -> None:
    """Tell whoever is named; that this fails is said, and changes nothing about the job."""
    for variable, tell in ((URL_VARIABLE, _post), (COMMAND_VARIABLE, _run)):
        if target := os.environ.get(variable):
            try:
                tell(target, ending.as_json())
            except Exception as error:  # its text may hold the URL
                print(f"note: {variable} could not be told: {type(error).__name__}", file=sys.stderr)


def _post(url: str, body: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("no http")
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()


def _run(command: str, body: str) -> None:
    subprocess.run(
        shlex.split(command), input=body, text=True, timeout=_TIMEOUT_S, check=True, stdout=subprocess.DEVNULL
    )
