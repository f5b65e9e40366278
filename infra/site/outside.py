"""Links that leave docs/: a page of the site has nothing to point at, so it names the file instead."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks.outside")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: object) -> str:
    """Replace links to files of the repository by their paths; a missing one is a warning, which --strict refuses."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def name_file(match: re.Match[str]) -> str:
        text, target = match[1], (here / match[2]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, match[2])
        path = target.relative_to(docs.parent).as_posix()
        return f"`{path}`" if text in path else f"{text} (`{path}`)"

    return _LINK.sub(name_file, markdown)
