"""A headless Chromium, spoken to through its pipe: pages looked at as people would, wide and narrow, light and dark."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_TIMEOUT_S = 60


def find_browser() -> str | None:
    """The path of a Chromium on this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _pipe() -> list[int]:
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high


@dataclass(frozen=True)
class Look:
    """How a page is looked at."""

    width: int
    is_dark: bool = False
    is_print: bool = False


class Browser:
    """One Chromium with one page, over the DevTools protocol; a context manager that ends it."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="bertmill-browser-", ignore_cleanup_errors=True)
        read_here, write_there = _pipe()  # above 3 and 4, where Chromium looks for its ends
        read_there, write_here = _pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        flags += [f"--user-data-dir={self._profile.name}", "--no-first-run", "--disable-background-networking"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read_there} 4>&{write_there}', path, *flags, "about:blank"],
            pass_fds=(read_there, write_there),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_there)
        os.close(write_there)
        self._read, self._write, self._text, self._last = read_here, write_here, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        (target,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setScrollbarsHidden", hidden=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept."""
        self._last += 1
        asked: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._last:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def _next(self) -> dict[str, Any]:
        until_s = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._text:
            assert select.select([self._read], [], [], max(until_s - time.monotonic(), 0))[0], "the browser is silent"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser is gone"
            self._text += more
        text, _, self._text = self._text.partition(b"\0")
        return dict(json.loads(text))

    def open(self, page: Path, look: Look) -> None:
        """Load a file and look at it in one way; `events` begins anew."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=look.width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if look.is_dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media="print" if look.is_print else "screen", features=[scheme])
        self.ask("Page.navigate", url=page.as_uri())
        self._wait_for_load()

    def follow(self, selector: str) -> None:
        """Click on a link, once the browser has answered, and wait for its page; `events` begins anew."""
        self.events.clear()
        self.run(f"setTimeout(() => document.querySelector({selector!r}).click())")
        self._wait_for_load()

    def _wait_for_load(self) -> None:
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def print_pdf(self, to: Path) -> None:
        """The page as it is printed."""
        found = self.ask("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)
        to.write_bytes(base64.b64decode(found["data"]))
