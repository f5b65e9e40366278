"""README and the pages of docs/, as their fenced blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.rules.sources import ROOT

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w.-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language ("" for none) and its text."""

    document: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file that the block is to be saved as, if its first line says so."""
        named = _NAMED.match(self.text)
        return named[1] if named else None


def documents() -> list[Path]:
    """Every document that a user reads."""
    return [ROOT / "README.md", ROOT / "infra" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def blocks(path: Path) -> tuple[Block, ...]:
    """A document's fenced blocks, in their order."""
    text, document = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    return tuple(
        Block(document, text[: match.start()].count("\n") + 1, match[1].strip(), match[2])
        for match in _FENCE.finditer(text)
    )


def all_blocks(*languages: str) -> list[Block]:
    """Blocks of some languages, in every document."""
    return [block for path in documents() for block in blocks(path) if block.language in languages]


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command: lines split where the shell would, without comments and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in (";", "&&", "||", "|", "&"):
                words.append(word)
            elif words:
                yield words
                words = []
