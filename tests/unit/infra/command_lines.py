"""`bertmill ...` command lines wherever infra/ has them, read by the real command line parser."""

from __future__ import annotations

import re
import shlex

from typer.main import get_command

from jobs.cli import app

_STARTS = re.compile(r"(?:^|[;&|(]\s*|\bexec\s+|/bin/)bertmill\s+(?=[a-z])")


def assert_parses(words: list[str]) -> None:
    """Parse a command line without running it; no group here has options of its own.

    Raises:
        Exception: the parser's, as a user would see it.
    """
    command, rest = get_command(app), list(words)
    context = None
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"bertmill has no command {name!r}"
        context = type(command).context_class(command, info_name=name, parent=context)
        command = command.commands[name]
    command.make_context(words[0], rest, parent=context)


def in_text(text: str) -> list[list[str]]:
    """The command lines of a script, a unit, or a block of commands."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for match in _STARTS.finditer(line):
            found.append(_words(line[match.end() :]))
    return found


def _words(rest: str) -> list[str]:
    """Words up to the command's end: a comment, a pipe, a redirection, a closing quote of what surrounds it."""
    return shlex.split(re.split(r"\s[#|>&]|;|'\s*$", rest)[0])
