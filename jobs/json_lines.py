"""What a job prints, as one JSON object for each print: for collectors that index fields."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime

_LEVELS = {"error: ": "error", "note: ": "warning"}


class JsonLines(io.TextIOBase):
    """Stands for stdout or stderr; what is JSON already (a submitted job's own lines) passes as it is."""

    def __init__(self, name: str) -> None:
        self._name, self._stream, self._text = name, getattr(sys, name), ""

    def write(self, text: str) -> int:
        """Take part of a line, or several; whole ones are written on."""
        self._text += text
        if self._text.endswith("\n"):
            self._emit()
        return len(text)

    def flush(self) -> None:
        """Hand on what is written; a line that has no end yet stays."""
        self._stream.flush()

    def isatty(self) -> bool:
        """No terminal: bars become lines."""
        return False

    def _emit(self) -> None:
        text, self._text = self._text.rstrip("\n"), ""
        if text:
            self._stream.write((text if _is_json(text) else self._record(text)) + "\n")
            self._stream.flush()

    def _record(self, text: str) -> str:
        start, level = next((each for each in _LEVELS.items() if text.startswith(each[0])), ("", "info"))
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = text.removeprefix(start)
        return json.dumps({"time": time, "level": level, "stream": self._name, "message": message}, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
